"""Logits and losses against transformers, weights copied by hand."""

import pytest
import torch

from megatron_math.model.config import ModelConfig, RopeScaling

CASES = {
    "llama": {},
    "llama multi-head": {"num_query_groups": 4},
    "llama wide heads": {"head_dim": 16},
    "llama tied": {"tied_embeddings": True},
    "llama3 scaling": {
        "rope_base": 500000.0,
        "rope_scaling": RopeScaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_sequence_length=16
        ),
        "head_dim": 32,
    },
    "mistral": {"family": "mistral"},
    "mistral window": {"family": "mistral", "sliding_window": 5},
    "mixtral": {
        "family": "mixtral",
        "num_experts": 6,
        "experts_per_token": 2,
        "sliding_window": 5,
    },
    "mixtral of three": {"family": "mixtral", "num_experts": 4, "experts_per_token": 3},
    "qwen2": {"family": "qwen2", "tied_embeddings": True, "rope_base": 1e6, "norm_eps": 1e-6},
}
TOKENS_BS = torch.randint(0, 100, (2, 32), generator=torch.Generator().manual_seed(0))
POSITIONS_BS = torch.arange(32).expand(2, 32)


def hf_model(config: ModelConfig):
    """A transformers model of the same shape with weights far from their gentle start."""
    import transformers

    settings = config.to_hf()
    torch.manual_seed(3)
    config_class = type(transformers.AutoConfig.for_model(settings["model_type"]))
    hf_config = config_class(**settings, attn_implementation="eager")
    hf = getattr(transformers, config.architecture)(hf_config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return hf


@pytest.fixture(params=CASES)
def pair(request, tiny, build, copy_from_hf):
    config = tiny.model_copy(update={"qkv_bias": request.param == "qwen2", **CASES[request.param]})
    config = ModelConfig(**config.model_dump())
    hf = hf_model(config)
    model = build(config)
    copy_from_hf(hf, model, config)
    return config, hf, model


def test_logits_equal_transformers(pair):
    from megatron_math.model.gpt import gather_logits

    config, hf, model = pair
    with torch.no_grad():
        ours = gather_logits(model(TOKENS_BS, POSITIONS_BS), config)
        theirs = hf(TOKENS_BS).logits
    assert ours.shape == theirs.shape  # padding is gone
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-5 * max(1.0, theirs.abs().max().item())


def test_loss_and_gradient_equal_transformers_in_spite_of_padding(pair):
    config, hf, model = pair
    assert config.padded_vocab_size > config.vocab_size
    labels_BS = TOKENS_BS.roll(-1, dims=1)
    ours_BS = model(TOKENS_BS, POSITIONS_BS, labels=labels_BS)
    logits = hf(TOKENS_BS).logits
    theirs_BS = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels_BS, reduction="none"
    )
    torch.testing.assert_close(ours_BS, theirs_BS, rtol=1e-5, atol=1e-5)
    ours_BS.mean().backward()
    theirs_BS.mean().backward()
    rows = model.embedding.word_embeddings.weight.grad
    expected = hf.get_input_embeddings().weight.grad
    torch.testing.assert_close(rows[: config.vocab_size], expected, rtol=1e-4, atol=1e-6)
    assert not rows[config.vocab_size :].any()


def test_scaled_frequencies_equal_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from megatron_math.model.presets import load_preset
    from megatron_math.model.rope import rotary_frequencies

    config = load_preset("llama3.1-8b")
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**config.to_hf()), "cpu")
    torch.testing.assert_close(rotary_frequencies(config), expected, rtol=1e-6, atol=0)
    plain = rotary_frequencies(ModelConfig(**(config.model_dump() | {"rope_scaling": None})))
    assert not torch.allclose(plain, expected)
