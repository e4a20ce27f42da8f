"""An open CPU device, tiny models, and the way from Hugging Face's weights by hand."""

import pytest
import torch

from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.model.config import ModelConfig


@pytest.fixture(scope="module")
def device():
    with open_device(Grid(), seed=1234) as opened:
        yield opened


@pytest.fixture
def tiny() -> ModelConfig:
    return ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=48,
        vocab_size=100,
        max_sequence_length=64,
    )


@pytest.fixture
def build(device):
    """build(config, **options) -> the one GPT of this process, with strong random weights."""
    from megatron_math.model.build import build_model

    def make(config, **options):
        settings = {"grid": device.grid, "dtype": torch.float32, "sequence_length": 32, **options}
        (model,) = build_model(config, **settings)
        return model

    return make


@pytest.fixture
def copy_from_hf():
    """copy_from_hf(hf model, GPT, config): every weight, by hand."""
    return _copy_from_hf


def _copy_from_hf(hf, model, config: ModelConfig) -> None:
    """Copy a transformers model's weights into a one-process GPT, name by name.

    Core keeps query, key and value of a group together: [group][queries of it, key, value].
    """
    groups, size = config.num_query_groups, config.head_dim
    state = {name: tensor.detach() for name, tensor in hf.state_dict().items()}

    def fused_qkv(prefix: str, kind: str) -> torch.Tensor:
        parts = [state[f"{prefix}self_attn.{p}_proj.{kind}"] for p in "qkv"]
        parts = [part.view(groups, -1, size, *part.shape[1:]) for part in parts]
        return torch.cat(parts, dim=1).flatten(0, 2)

    named = {
        "embedding.word_embeddings.weight": state["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": state["model.norm.weight"],
        "output_layer.weight": state["lm_head.weight"],
    }
    for layer in range(config.num_layers):
        old, new = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        named |= {
            f"{new}input_layernorm.weight": state[f"{old}input_layernorm.weight"],
            f"{new}pre_mlp_layernorm.weight": state[f"{old}post_attention_layernorm.weight"],
            f"{new}self_attention.linear_qkv.weight": fused_qkv(old, "weight"),
            f"{new}self_attention.linear_proj.weight": state[f"{old}self_attn.o_proj.weight"],
        }
        if config.num_experts is None:
            gate_up = [state[f"{old}mlp.{p}_proj.weight"] for p in ("gate", "up")]
            named[f"{new}mlp.linear_fc1.weight"] = torch.cat(gate_up)
            named[f"{new}mlp.linear_fc2.weight"] = state[f"{old}mlp.down_proj.weight"]
        else:
            named[f"{new}mlp.router.weight"] = state[f"{old}mlp.gate.weight"]
            for expert in range(config.num_experts):
                own = f"{new}mlp.experts.local_experts.{expert}."
                gate_up_EFH = state[f"{old}mlp.experts.gate_up_proj"]
                named[f"{own}linear_fc1.weight"] = gate_up_EFH[expert]
                named[f"{own}linear_fc2.weight"] = state[f"{old}mlp.experts.down_proj"][expert]
        if config.qkv_bias:
            named[f"{new}self_attention.linear_qkv.bias"] = fused_qkv(old, "bias")
    parameters = dict(model.named_parameters())
    if config.tied_embeddings:
        del named["output_layer.weight"]
    assert named.keys() == parameters.keys()
    with torch.no_grad():
        for name, tensor in named.items():
            parameters[name][: len(tensor)].copy_(tensor)
