"""The table of names against transformers' own, and the tensor layouts against hand-made ones."""

import pytest
import torch
from tiny_models import FAMILIES, SIZES
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_math.convert.names import Row, canonical_name, name_table
from megatron_math.convert.tensors import join, split
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset


@pytest.mark.parametrize("family", FAMILIES)
def test_table_names_every_tensor_of_transformers_with_its_shape(family):
    hf_config = AutoConfig.for_model(**{**SIZES, **FAMILIES[family]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    config = ModelConfig.from_hf({**hf_config.to_dict(), "architectures": [type(model).__name__]})
    ours = {n: s for row in name_table(config) for n, s in zip(row.hf, row.shapes, strict=True)}
    state = dict(model.named_parameters())
    if config.num_experts is not None:  # stacked in memory; on disk each by itself
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(model, state)
    assert ours == {name: tuple(p.shape) for name, p in state.items()}
    assert sum(row.num_elements for row in name_table(config)) == config.num_parameters()


# Two groups of two query heads, head size 2, hidden size 1: numbers name their rows.
SMALL = ModelConfig.model_validate(
    {
        "family": "qwen2",
        "hidden_size": 8,
        "num_layers": 1,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "head_dim": 2,
        "ffn_hidden_size": 3,
        "vocab_size": 5,
        "max_sequence_length": 16,
        "vocab_padding_multiple": 8,
    }
)


def row_of(kind: str) -> Row:
    return next(row for row in name_table(SMALL) if row.kind == kind)


@pytest.mark.parametrize("kind", ["qkv_weight", "qkv_bias"])
def test_qkv_holds_group_by_group_query_heads_then_key_then_value(kind):
    query = torch.arange(8.0)  # heads 0 and 1 (rows 0..3) serve group 0
    key, value = 100 + torch.arange(4.0), 200 + torch.arange(4.0)
    parts = [query, key, value]
    if kind == "qkv_weight":
        parts = [part[:, None].expand(-1, 8) for part in parts]
    joined = join(row_of(kind), SMALL, parts)
    by_hand = [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]
    rows = joined[:, 0] if kind == "qkv_weight" else joined
    assert rows.tolist() == by_hand
    for part, again in zip(parts, split(row_of(kind), SMALL, joined), strict=True):
        assert torch.equal(part, again)


def test_gate_stands_above_up():
    gate, up = torch.ones(3, 8), 2 * torch.ones(3, 8)
    joined = join(row_of("gate_up"), SMALL, [gate, up])
    assert joined[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert [part[0, 0].item() for part in split(row_of("gate_up"), SMALL, joined)] == [1, 2]


def test_vocabulary_padding_is_zero_and_is_dropped_again():
    embedding = torch.randn(5, 8, dtype=torch.bfloat16)
    joined = join(row_of("vocabulary"), SMALL, [embedding])
    assert joined.shape == (8, 8)
    assert joined.dtype == torch.bfloat16
    assert not joined[5:].any()
    (again,) = split(row_of("vocabulary"), SMALL, joined)
    assert torch.equal(again, embedding)


def test_names_of_the_unfused_norms_become_the_fused_ones():
    before_attention = "decoder.layers.3.input_layernorm.weight"
    before_mlp = "decoder.layers.3.pre_mlp_layernorm.weight"
    last = "decoder.final_layernorm.weight"
    for config in (SMALL, load_preset("tiny-mixtral")):
        assert canonical_name(before_attention, config) == (
            "decoder.layers.3.self_attention.linear_qkv.layer_norm_weight"
        )
        assert canonical_name(last, config) == last
    assert canonical_name(before_mlp, SMALL) == "decoder.layers.3.mlp.linear_fc1.layer_norm_weight"
    assert canonical_name(before_mlp, load_preset("tiny-mixtral")) == before_mlp  # a router's
