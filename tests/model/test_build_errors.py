"""Grids and specs that do not fit get a sentence; checkpoints get Transformer Engine's names."""

import pytest

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.model.build import check_grid, choose_spec


@pytest.mark.parametrize(
    ("grid", "change", "says"),
    [
        ({"pipeline": 2, "virtual": 2}, {}, "virtual 2 = 4 does not divide num_layers 2"),
        ({"tensor": 8}, {}, "tensor 8 = 8 does not divide num_attention_heads 4"),
        ({"tensor": 4}, {"ffn_hidden_size": 50}, "does not divide ffn_hidden_size 50"),
        ({"tensor": 4}, {"vocab_padding_multiple": 50}, "padded vocabulary 50;"),
        ({"tensor": 2}, {"num_query_groups": 3, "num_attention_heads": 6}, "num_query_groups 3"),
        (
            {"tensor": 4, "sequence": True},
            {"length": 30},
            "with tensor 4 cut 30 tokens 4 ways",
        ),
        ({"context": 3}, {}, "parallel.context 3 cut 32 tokens 6 ways"),
        ({"expert": 2}, {}, "the model has no experts"),
        ({}, {"length": 65}, "sequence length 65 is more than .* 64"),
    ],
)
def test_a_grid_that_does_not_fit(tiny, grid, change, says):
    length = change.pop("length", 32)
    if "vocab_padding_multiple" in change:
        change["vocab_size"] = 50
    config = tiny.model_copy(update=change)
    with pytest.raises(UserError, match=says):
        check_grid(config, Grid(**grid), length)


def test_fitting_grids_pass(tiny):
    check_grid(tiny, Grid(tensor=4), 64)  # two groups on four ranks: core copies heads
    check_grid(tiny, Grid(tensor=2, pipeline=2, sequence=True), 64)


def test_the_spec_without_a_gpu(caplog, monkeypatch):
    import importlib.util

    caplog.set_level("INFO", logger="megatron_math")
    assert choose_spec("auto") == "torch"
    assert "no GPU" in caplog.text
    with pytest.raises(UserError, match="the package transformer-engine was not found"):
        choose_spec("te")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_spec("auto") == "torch"
    with pytest.raises(UserError, match="a GPU was not found"):
        choose_spec("te")


def test_sharded_keys_are_those_of_transformer_engine(build, tiny):
    model = build(tiny.model_copy(update={"family": "qwen2", "qkv_bias": True}))
    tree = model.sharded_state_dict()
    keys = {part.key for part in tree.values() if "_extra_state" not in part.key}
    layer = "decoder.layers."
    assert keys == {
        "embedding.word_embeddings.weight",
        f"{layer}self_attention.linear_qkv.layer_norm_weight",
        f"{layer}self_attention.linear_qkv.weight",
        f"{layer}self_attention.linear_qkv.bias",
        f"{layer}self_attention.linear_proj.weight",
        f"{layer}mlp.linear_fc1.layer_norm_weight",
        f"{layer}mlp.linear_fc1.weight",
        f"{layer}mlp.linear_fc2.weight",
        "decoder.final_layernorm.weight",
        "output_layer.weight",
    }
