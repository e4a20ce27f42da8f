"""ModelConfig: what it derives, what it refuses, config.json of transformers 4 and 5."""

import json

import pytest
from pydantic import ValidationError

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.model.config import ModelConfig, ModelOverrides, RopeScaling

SIZES = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 96,
    "vocab_size": 300,
    "max_sequence_length": 128,
}
LLAMA_HF = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_defaults_follow_from_the_sizes():
    config = ModelConfig.model_validate(SIZES)
    assert (config.head_dim, config.num_query_groups, config.padded_vocab_size) == (16, 4, 384)
    assert config.qkv_bias is False
    assert ModelConfig.model_validate({**SIZES, "family": "qwen2"}).qkv_bias is True
    assert ModelConfig.model_validate({**SIZES, "vocab_size": 384}).padded_vocab_size == 384


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "hidden_size 64 is not a multiple of num_attention_heads 5"),
        ({"num_query_groups": 3}, "num_query_groups 3"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"qkv_bias": True}, "qkv_bias True does not fit family llama"),
        ({"sliding_window": 8}, "sliding_window 8 does not fit family llama"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_experts": 4}, "num_experts 4 and experts_per_token None do not fit family llama"),
        ({"family": "mixtral"}, "family mixtral needs both"),
        ({"family": "mixtral", "num_experts": 2, "experts_per_token": 3}, "not more experts"),
        ({"hidden_sise": 64}, "did you mean 'hidden_size'"),
        ({"family": "gpt2"}, "family"),
        ({"rope_scaling": {"factor": 8, "low_freq_factor": 4}}, "high_freq_factor 4.0 must be"),
    ],
)
def test_bad_fields_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        parse_section(ModelConfig, {**SIZES, **change}, "model")


def test_config_is_frozen():
    config = ModelConfig.model_validate(SIZES)
    with pytest.raises(ValidationError):
        config.hidden_size = 128


def test_reads_both_ways_of_writing_the_rotary_settings():
    four = {**LLAMA_HF, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}
    five = {**LLAMA_HF, "rope_parameters": {"rope_theta": 500000.0, **LLAMA3_ROPE}}
    expected = RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_sequence_length=64
    )
    for hf in (four, five, {**four, **five}):
        config = ModelConfig.from_hf(hf)
        assert (config.rope_base, config.rope_scaling) == (500000.0, expected)
    # Llama 2's first config.json had neither key.
    assert ModelConfig.from_hf(LLAMA_HF).rope_base == 10000.0
    # The scaling's original length defaults to the longest sequence, as in transformers.
    short = {k: v for k, v in LLAMA3_ROPE.items() if not k.startswith("original")}
    assert ModelConfig.from_hf({**LLAMA_HF, "rope_scaling": short}).rope_scaling == (
        expected.model_copy(update={"original_max_sequence_length": 128})
    )


def test_contradicting_rotary_settings_are_refused():
    with pytest.raises(UserError, match="two rotary bases"):
        ModelConfig.from_hf({**LLAMA_HF, "rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}})
    with pytest.raises(UserError, match="two rotary scalings"):
        ModelConfig.from_hf(
            {**LLAMA_HF, "rope_scaling": LLAMA3_ROPE, "rope_parameters": {"rope_type": "default"}}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPTNeoXForCausalLM"]}, "GPTNeoXForCausalLM is not supported"),
        ({"architectures": None}, "names no architecture"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear' is not implemented"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "type 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks low_freq_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True},
            "use_sliding_window = True",
        ),
    ],
)
def test_unsupported_hugging_face_settings_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_hf({**LLAMA_HF, **change})


def test_mistral_window():
    mistral = {**LLAMA_HF, "architectures": ["MistralForCausalLM"]}
    assert ModelConfig.from_hf(mistral).sliding_window == 4096  # transformers' default
    assert ModelConfig.from_hf({**mistral, "sliding_window": None}).sliding_window is None
    assert ModelConfig.from_hf({**mistral, "sliding_window": 8}).sliding_window == 8


def test_mixtral_without_keys_is_what_transformers_takes_it_for():
    transformers = pytest.importorskip("transformers")
    named = {**LLAMA_HF, "architectures": ["MixtralForCausalLM"]}
    ours, theirs = ModelConfig.from_hf(named), transformers.MixtralConfig(**LLAMA_HF)
    assert ours.num_experts == theirs.num_local_experts == 8
    assert ours.experts_per_token == theirs.num_experts_per_tok == 2
    assert ours.rope_base == theirs.rope_parameters["rope_theta"] == 1e6
    assert ours.sliding_window is theirs.sliding_window is None
    with pytest.raises(UserError, match="router_jitter_noise = 0.1"):
        ModelConfig.from_hf({**named, "router_jitter_noise": 0.1})


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "qwen2"])
def test_transformers_reads_what_we_write_and_we_read_what_it_writes(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = ModelConfig.model_validate(
        {
            **SIZES,
            "family": family,
            "num_query_groups": 2,
            "rope_base": 500000.0,
            "rope_scaling": {"factor": 8.0, "original_max_sequence_length": 64},
            "sliding_window": 16 if family in ("mistral", "mixtral") else None,
            **({"num_experts": 4, "experts_per_token": 3} if family == "mixtral" else {}),
            "tied_embeddings": family == "qwen2",
        }
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    hf = transformers.AutoConfig.from_pretrained(tmp_path)
    assert hf.rope_parameters["rope_type"] == "llama3"
    assert hf.rope_parameters["rope_theta"] == 500000.0
    hf.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert ModelConfig.from_hf(written) == config


def test_overrides_take_any_field_and_nothing_else():
    section = parse_section(ModelOverrides, {"preset": "tiny", "vocab_size": 512}, "model")
    assert section.model_dump(exclude_unset=True) == {"preset": "tiny", "vocab_size": 512}
    with pytest.raises(UserError, match="did you mean 'vocab_size'"):
        parse_section(ModelOverrides, {"vocab_sise": 512}, "model")
