"""Settings that cannot work, or change nothing, are refused with the reason."""

from typing import Any

import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.model.config import ModelConfig
from megatron_math.model.fp8_config import Fp8Config
from megatron_math.train.config import PrecisionConfig

WIDE = {
    "hidden_size": 256, "num_layers": 4, "num_attention_heads": 8, "num_query_groups": 4,
    "ffn_hidden_size": 704, "vocab_size": 1000, "max_sequence_length": 4096,
}  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ({"dtype": "fp16", "fp8": {"recipe": "tensorwise"}}, "loss scale never comes down"),
        ({"dtype": "fp16", "fp8": {"recipe": "delayed", "backend": "emulate"}}, "take bf16"),
        ({"dtype": "fp32", "fp8": {"recipe": "tensorwise"}}, "half-precision kernels only"),
        ({"spec": "torch", "fp8": {"recipe": "tensorwise"}}, "needs spec: te"),
        (
            {"spec": "te", "fp8": {"recipe": "tensorwise", "backend": "emulate"}},
            "needs spec: torch",
        ),
        ({"fp8": {"recipe": "tensorwise", "margin": 1}}, "margin has no effect"),
        ({"fp8": {"recipe": "blockwise", "amax_history": 4}}, "amax_history has no effect"),
        ({"fp8": {"recipe": "delayed", "first_layers_bf16": 1}}, "single layers cannot"),
        ({"fp8": {"recipe": "delayed", "last_layers_bf16": 1}}, "single layers cannot"),
        (
            {"fp8": {"recipe": "tensorwise", "backend": "emulate", "parameters": True}},
            "parameters has no effect",
        ),
        ({"fp8": {"recipe": "mxfp8"}}, "'delayed', 'tensorwise' or 'blockwise'"),
        ({"fp8": {}}, "this key is required"),
    ],
)
def test_bad_settings_are_refused(precision: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_section(PrecisionConfig, precision, "precision")


@pytest.mark.parametrize(
    ("fp8", "model", "grid", "tokens", "reason"),
    [
        ({"recipe": "tensorwise"}, {}, {}, (1, 100), "multiple of 16 tokens .* is 100"),
        ({"recipe": "tensorwise"}, {}, {"context": 4}, (1, 96), "cut 4 ways is 24"),
        ({"recipe": "blockwise"}, {}, {"tensor": 2, "sequence": True}, (1, 128), "multiple of 128"),
        ({"recipe": "delayed"}, {"ffn_hidden_size": 72}, {}, (1, 128), "ffn_hidden_size 72"),
        ({"recipe": "delayed"}, {"ffn_hidden_size": 80}, {"tensor": 2}, (1, 128), "= 40 is not"),
        (
            {"recipe": "delayed"}, {"hidden_size": 40, "head_dim": 8}, {}, (1, 128),
            "hidden_size 40",
        ),
        (
            {"recipe": "tensorwise", "first_layers_bf16": 2, "last_layers_bf16": 2}, {}, {},
            (1, 128), "nothing is in FP8",
        ),
        (
            {"recipe": "tensorwise", "first_layers_bf16": 2}, {}, {"pipeline": 4}, (1, 128),
            "as a pipeline stage has .1.",
        ),
    ],
)  # fmt: skip
def test_sizes_that_products_cannot_take_are_refused(fp8, model, grid, tokens, reason) -> None:
    with pytest.raises(UserError, match=reason):
        Fp8Config(**fp8).refuse_sizes(ModelConfig(**WIDE | model), Grid(**grid), *tokens)


def test_good_settings_pass_and_a_short_history_is_remarked_on(caplog) -> None:
    for recipe in ("delayed", "tensorwise", "blockwise"):
        grid = Grid(tensor=2, sequence=True)
        Fp8Config(recipe=recipe).refuse_sizes(ModelConfig(**WIDE), grid, 1, 4096)
    assert "amax_history" not in caplog.text
    settings = Fp8Config(recipe="delayed", amax_history=1)
    settings.refuse_sizes(ModelConfig(**WIDE), Grid(), 1, 4096)
    assert "saturates at the first outlier" in caplog.text


def test_transformer_engine_is_missed_in_a_sentence(build, tiny) -> None:
    with pytest.raises(UserError, match="transformer-engine is not installed; rehearse with"):
        build(tiny, fp8=Fp8Config(recipe="tensorwise"))


def test_settings_reach_megatron_core(monkeypatch, device) -> None:
    """Under a stand-in for Transformer Engine: names and values of core's fields."""
    import sys
    import types

    from megatron_math.model import fp8

    engine = types.ModuleType("transformer_engine.pytorch")
    engine.is_fp8_available = lambda return_reason: (True, "")
    engine.is_fp8_block_scaling_available = lambda return_reason: (False, "CUDA >= 12.9 is needed")
    package = types.ModuleType("transformer_engine")
    package.pytorch = engine
    monkeypatch.setitem(sys.modules, "transformer_engine", package)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", engine)
    monkeypatch.setattr(fp8.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="no GPU was found"):
        fp8.te_fields(Fp8Config(recipe="delayed"))
    monkeypatch.setattr(fp8, "device_kind", lambda: "gpu")
    with pytest.raises(UserError, match="CUDA >= 12.9 is needed"):
        fp8.te_fields(Fp8Config(recipe="blockwise"))
    delayed = fp8.te_fields(Fp8Config(recipe="delayed", margin=1, parameters=True))
    assert delayed == {
        "fp8": "hybrid", "fp8_recipe": "delayed", "fp8_param": True,
        "fp8_margin": 1, "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max",
    }  # fmt: skip
    engine.is_fp8_block_scaling_available = lambda return_reason: (True, "")
    blockwise = fp8.te_fields(Fp8Config(recipe="blockwise", last_layers_bf16=2))
    assert blockwise == {
        "fp8": "e4m3", "fp8_recipe": "blockwise", "fp8_param": False,
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": 0, "num_layers_at_end_in_bf16": 2,
    }  # fmt: skip

    import torch

    from megatron_math.model.build import transformer_config

    for fields in (delayed, blockwise):
        model = ModelConfig(**WIDE)
        made = transformer_config(model, grid=Grid(), dtype=torch.bfloat16, **fields)
        assert {name: getattr(made, name) for name in fields} == fields


def test_identity_without_fp8_is_the_old_one() -> None:
    assert "fp8" not in PrecisionConfig().identity()
    settings = {"recipe": "tensorwise", "shadow_interval": 3}
    assert "shadow_interval" not in PrecisionConfig(fp8=settings).identity()["fp8"]
