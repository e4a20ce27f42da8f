"""Presets against the published configurations: sizes, exact parameter counts, config.json."""

import pytest

from megatron_math.base.errors import UserError
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import PRESETS, load_preset, read_preset

# hidden, layers, query heads, key/value heads, ffn, vocabulary, tied, parameters: typed in from the
# published config.json files, apart from the presets, so that a slip in either shows.
PUBLISHED = {
    "llama2-7b": (4096, 32, 32, 32, 11008, 32000, False, 6_738_415_616),
    "llama2-13b": (5120, 40, 40, 40, 13824, 32000, False, 13_015_864_320),
    "llama3-8b": (4096, 32, 32, 8, 14336, 128256, False, 8_030_261_248),
    "llama3.1-8b": (4096, 32, 32, 8, 14336, 128256, False, 8_030_261_248),
    "llama3.2-1b": (2048, 16, 32, 8, 8192, 128256, True, 1_235_814_400),
    "codellama-7b": (4096, 32, 32, 32, 11008, 32016, False, 6_738_546_688),
    "mistral-7b-v0.1": (4096, 32, 32, 8, 14336, 32000, False, 7_241_732_096),
    "mistral-7b-v0.3": (4096, 32, 32, 8, 14336, 32768, False, 7_248_023_552),
    "mixtral-8x7b": (4096, 32, 32, 8, 14336, 32000, False, 46_702_792_704),
    "qwen2-7b": (3584, 28, 28, 4, 18944, 152064, False, 7_615_616_512),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151936, True, 1_543_714_304),
    "qwen2.5-7b": (3584, 28, 28, 4, 18944, 152064, False, 7_615_616_512),
    "qwen2.5-math-7b": (3584, 28, 28, 4, 18944, 152064, False, 7_615_616_512),
    "deepseekmath-7b": (4096, 30, 32, 32, 11008, 102400, False, 6_910_365_696),
    "tiny": (128, 4, 4, 2, 384, 1024, True, 918_656),
    "tiny-mixtral": (128, 2, 4, 2, 192, 1024, True, 1_411_712),
    "small-15m": (384, 8, 6, 2, 1024, 8192, True, 15_735_168),
}
# rotary base, scaling factor, longest sequence, epsilon, window
POSITIONS = {
    "llama2-7b": (1e4, None, 4096, 1e-5, None),
    "llama2-13b": (1e4, None, 4096, 1e-5, None),
    "llama3-8b": (5e5, None, 8192, 1e-5, None),
    "llama3.1-8b": (5e5, 8.0, 131072, 1e-5, None),
    "llama3.2-1b": (5e5, 32.0, 131072, 1e-5, None),
    "codellama-7b": (1e6, None, 16384, 1e-5, None),
    "mistral-7b-v0.1": (1e4, None, 32768, 1e-5, 4096),
    "mistral-7b-v0.3": (1e6, None, 32768, 1e-5, None),
    "mixtral-8x7b": (1e6, None, 32768, 1e-5, None),
    "qwen2-7b": (1e6, None, 131072, 1e-6, None),
    "qwen2.5-1.5b": (1e6, None, 131072, 1e-6, None),
    "qwen2.5-7b": (1e6, None, 131072, 1e-6, None),
    "qwen2.5-math-7b": (1e4, None, 4096, 1e-6, None),
    "deepseekmath-7b": (1e4, None, 4096, 1e-6, None),
    "tiny": (1e4, None, 512, 1e-5, None),
    "tiny-mixtral": (1e4, None, 512, 1e-5, None),
    "small-15m": (1e4, None, 1024, 1e-5, None),
}
# experts, of which for a token, and the parameters that work on a token: 12.9B of 46.7B (Jiang et
# al. 2024, section 1)
EXPERTS = {"mixtral-8x7b": (8, 2, 12_879_925_248), "tiny-mixtral": (8, 2, 526_976)}


def test_every_preset_is_checked():
    assert set(PRESETS) == set(PUBLISHED) == set(POSITIONS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_matches_the_published_numbers(name):
    config = load_preset(name)
    hidden, layers, heads, groups, ffn, vocabulary, tied, parameters = PUBLISHED[name]
    assert (config.hidden_size, config.num_layers, config.num_attention_heads) == (
        hidden,
        layers,
        heads,
    )
    assert (config.num_query_groups, config.ffn_hidden_size) == (groups, ffn)
    assert (config.vocab_size, config.tied_embeddings) == (vocabulary, tied)
    assert config.num_parameters() == parameters == read_preset(name)["parameters"]
    base, factor, length, eps, window = POSITIONS[name]
    assert (config.rope_base, config.max_sequence_length) == (base, length)
    assert (config.norm_eps, config.sliding_window) == (eps, window)
    assert (config.rope_scaling.factor if config.rope_scaling else None) == factor
    experts, for_a_token, active = EXPERTS.get(name, (None, None, parameters))
    assert (config.num_experts, config.experts_per_token) == (experts, for_a_token)
    assert config.num_active_parameters() == active
    assert read_preset(name)["source"]


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_equals_transformers_on_the_meta_device(name):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = load_preset(name)
    hf = config.to_hf()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(hf.pop("model_type"), **hf))
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters()
    assert type(model).__name__ == config.architecture


@pytest.mark.parametrize("name", PRESETS)
def test_preset_survives_config_json(name):
    config = load_preset(name)
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="llama3-8b"):
        load_preset("llama3_8b")


def test_overrides_replace_fields_and_bad_ones_are_refused_by_name():
    assert load_preset("tiny", {"vocab_size": 2000}).padded_vocab_size == 2048
    with pytest.raises(UserError, match="num_query_groups 3"):
        load_preset("tiny", {"num_query_groups": 3})
    with pytest.raises(UserError, match="did you mean 'vocab_size'"):
        load_preset("tiny", {"vocabsize": 2000})
