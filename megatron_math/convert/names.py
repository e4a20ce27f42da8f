"""The one table of names: Hugging Face tensors on one side, Megatron-Core parameters on the other.

Torch-free. Core's names are the canonical ones of its checkpoints (Transformer Engine's fused
layout); a model built without Transformer Engine keeps the norms in modules of their own, which
`canonical_name` maps. Experts are named as one process holds them, each by itself; a checkpoint
stacks them. The families share the table: what differs (ties, biases, experts) follows from the
configuration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_math.model.config import ModelConfig

Kind = Literal["copy", "vocabulary", "qkv_weight", "qkv_bias", "gate_up"]


@dataclass(frozen=True)
class Row:
    """One parameter of core and the Hugging Face tensors that it is made of, in their order."""

    core: str
    hf: tuple[str, ...]
    kind: Kind
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the Hugging Face tensors, un-padded."""

    @property
    def num_elements(self) -> int:
        """Numbers in the Hugging Face tensors together."""
        total = 0
        for shape in self.shapes:
            elements = 1
            for size in shape:
                elements *= size
            total += elements
        return total


def name_table(config: ModelConfig) -> list[Row]:
    """Every parameter of the model, embedding first, in the order of the layers."""
    matrix = (config.vocab_size, config.hidden_size)
    width = (config.hidden_size,)
    rows = [
        Row(
            "embedding.word_embeddings.weight",
            ("model.embed_tokens.weight",),
            "vocabulary",
            (matrix,),
        )
    ]
    for layer in range(config.num_layers):
        rows += _layer_rows(config, f"decoder.layers.{layer}.", f"model.layers.{layer}.")
    rows.append(Row("decoder.final_layernorm.weight", ("model.norm.weight",), "copy", (width,)))
    if not config.tied_embeddings:
        rows.append(Row("output_layer.weight", ("lm_head.weight",), "vocabulary", (matrix,)))
    return rows


def _layer_rows(config: ModelConfig, core: str, hf: str) -> Iterator[Row]:
    hidden = config.hidden_size
    query = config.num_attention_heads * config.head_dim
    key = config.num_query_groups * config.head_dim
    projections = [hf + f"self_attn.{name}_proj" for name in "qkv"]
    yield Row(
        core + "self_attention.linear_qkv.layer_norm_weight",
        (hf + "input_layernorm.weight",),
        "copy",
        ((hidden,),),
    )
    yield Row(
        core + "self_attention.linear_qkv.weight",
        tuple(name + ".weight" for name in projections),
        "qkv_weight",
        ((query, hidden), (key, hidden), (key, hidden)),
    )
    if config.qkv_bias:
        yield Row(
            core + "self_attention.linear_qkv.bias",
            tuple(name + ".bias" for name in projections),
            "qkv_bias",
            ((query,), (key,), (key,)),
        )
    yield Row(
        core + "self_attention.linear_proj.weight",
        (hf + "self_attn.o_proj.weight",),
        "copy",
        ((hidden, query),),
    )
    experts = config.num_experts
    norm = "mlp.linear_fc1.layer_norm_weight" if experts is None else "pre_mlp_layernorm.weight"
    yield Row(core + norm, (hf + "post_attention_layernorm.weight",), "copy", ((hidden,),))
    if experts is None:
        names = tuple(f"{hf}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        yield from _mlp_rows(config, core + "mlp.", names)
        return
    gate = hf + "block_sparse_moe.gate.weight"
    yield Row(core + "mlp.router.weight", (gate,), "copy", ((experts, hidden),))
    for expert in range(experts):
        own = f"{hf}block_sparse_moe.experts.{expert}."
        names = tuple(f"{own}{name}.weight" for name in ("w1", "w3", "w2"))
        yield from _mlp_rows(config, f"{core}mlp.experts.local_experts.{expert}.", names)


def _mlp_rows(config: ModelConfig, core: str, names: tuple[str, ...]) -> Iterator[Row]:
    """`names` of gate, up and down."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    yield Row(core + "linear_fc1.weight", names[:2], "gate_up", ((ffn, hidden), (ffn, hidden)))
    yield Row(core + "linear_fc2.weight", names[2:], "copy", ((hidden, ffn),))


# Modules of the layer spec without Transformer Engine -> the fused names of the checkpoint. A norm
# before a router is fused in neither.
_UNFUSED_NORMS = {
    ".input_layernorm.weight": ".self_attention.linear_qkv.layer_norm_weight",
    ".pre_mlp_layernorm.weight": ".mlp.linear_fc1.layer_norm_weight",
}


def canonical_name(parameter: str, config: ModelConfig) -> str:
    """The checkpoint's name of a parameter as `named_parameters()` spells it."""
    for unfused, fused in _UNFUSED_NORMS.items():
        if parameter.endswith(unfused) and not (config.num_experts and ".mlp." in fused):
            return parameter.removesuffix(unfused) + fused
    return parameter
