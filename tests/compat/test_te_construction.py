"""Transformer Engine's layers and FP8 recipes, built from our settings on a host without a GPU.

Three answers are stand-ins while a model is built: that there is a GPU, which the constructor of
every Transformer Engine layer asserts (pytorch/module/base.py), that it has FP8, and that a norm on
its own begins on the CPU. Nothing is computed. Run by `make compat` where a wheel is named.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

import pytest
import torch

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.device.open import seed_all
from megatron_math.device.pretend import pretended_device
from megatron_math.model.config import ModelConfig
from megatron_math.model.fp8_config import Fp8Config
from megatron_math.model.lora_config import LoraConfig

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is None or torch.cuda.is_available(),
    reason="wants Transformer Engine on a host without a GPU: make compat TE_WHEELS=folder",
)

DENSE = {
    "hidden_size": 256, "num_layers": 4, "num_attention_heads": 4, "num_query_groups": 2,
    "ffn_hidden_size": 512, "vocab_size": 500, "max_sequence_length": 128,
}  # fmt: skip
EXPERTS = DENSE | {"num_experts": 4, "experts_per_token": 2, "family": "mixtral"}
MODELS = {
    "dense": (DENSE, Grid()),
    "dense, tensor 2": (DENSE, Grid(tensor=2, sequence=True)),
    "dense, pipeline 2": (DENSE, Grid(pipeline=2)),
    "experts": (EXPERTS, Grid()),
    "experts, expert 2": (EXPERTS, Grid(expert=2)),
}
RECIPES = {
    "delayed": Fp8Config(recipe="delayed"),
    "delayed, margin 1, history 16": Fp8Config(recipe="delayed", margin=1, amax_history=16),
    "delayed, parameters": Fp8Config(recipe="delayed", parameters=True),
    "tensorwise": Fp8Config(recipe="tensorwise"),
    "tensorwise, parameters": Fp8Config(recipe="tensorwise", parameters=True),
    "tensorwise, outer layers in bf16": Fp8Config(
        recipe="tensorwise", first_layers_bf16=1, last_layers_bf16=1
    ),
    "blockwise": Fp8Config(recipe="blockwise"),
    "blockwise, parameters": Fp8Config(recipe="blockwise", parameters=True),
    "blockwise, outer layers in bf16": Fp8Config(
        recipe="blockwise", first_layers_bf16=1, last_layers_bf16=1
    ),
}
KIND = {
    "delayed": "TEDelayedScaling",
    "tensorwise": "Float8CurrentScaling",
    "blockwise": "Float8BlockScaling",
}


@contextlib.contextmanager
def stand_ins(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside there seems to be a GPU that has FP8, and tensors are made on the CPU."""
    from transformer_engine import pytorch as te
    from transformer_engine.pytorch.ops.basic import rmsnorm

    with patch.context() as inside:
        inside.setattr(torch.cuda, "is_available", lambda: True)
        inside.setattr(rmsnorm, "canonicalize_device", lambda device: torch.device("cpu"))
        for name in ("is_fp8_available", "is_fp8_block_scaling_available"):
            inside.setattr(te, name, lambda return_reason: (True, ""))
        yield


def built(patch, sizes: dict, grid: Grid, fp8: Fp8Config | None = None, lora=None):
    """The model of rank 0, under the `te` spec; call it inside `pretended_device`."""
    from megatron_math.model.build import build_model

    seed_all(0)
    with stand_ins(patch):
        return build_model(
            ModelConfig(**sizes), grid=grid, dtype=torch.bfloat16, spec="te",
            sequence_length=128, fp8=fp8, lora=lora,
        )  # fmt: skip


def test_core_sees_it() -> None:
    from megatron.core.extensions.transformer_engine import HAVE_TE

    assert HAVE_TE


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, grid = MODELS[name]
    world = grid.tensor * grid.pipeline * grid.expert
    with pretended_device(grid, 0, world):
        (model,) = built(monkeypatch, sizes, grid)
        layers = model.decoder.layers
        assert len(layers) == sizes["num_layers"] // grid.pipeline
        parameters = dict(layers[0].named_parameters())
        assert {n: p.dtype for n, p in parameters.items() if p.dtype != torch.bfloat16} == {}
        attention = layers[0].self_attention
        assert type(attention.linear_qkv).__name__ == "TELayerNormColumnParallelLinear"
        assert type(attention.core_attention).__name__ == "TEDotProductAttention"
        assert attention.linear_qkv.weight.shape == (512 // grid.tensor, 256)
        if "experts" not in name:
            assert type(layers[0].mlp.linear_fc1).__name__ == "TELayerNormColumnParallelLinear"
            assert layers[0].mlp.linear_fc1.weight.shape == (1024 // grid.tensor, 256)
        else:
            assert type(layers[0].mlp.router).__module__ == "megatron_math.model.experts"
            assert layers[0].mlp.router.balance is model.balance
            assert type(layers[0].mlp.experts).__name__ == "TEGroupedMLP"
            weights = [n for n in parameters if "experts.linear_fc1.weight" in n]
            assert len(weights) == 4 // grid.expert
        assert model.packs_documents


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings -> TransformerConfig -> the recipe that core hands to Transformer Engine."""
    from megatron.core.fp8_utils import get_fp8_context, get_fp8_recipe, is_first_last_bf16_layer

    from megatron_math.model.build import transformer_config
    from megatron_math.model.fp8 import te_fields

    fp8 = RECIPES[name]
    with pretended_device(Grid(), 0, 1):
        if fp8.parameters:  # weights are cast when they are made, which only a GPU can
            with stand_ins(monkeypatch):
                fields = te_fields(fp8)
            sizes = ModelConfig(**DENSE)
            config = transformer_config(sizes, grid=Grid(), dtype=torch.bfloat16, **fields)
        else:
            config = built(monkeypatch, DENSE, Grid(), fp8)[0].config
        recipe = get_fp8_recipe(config)
        assert type(recipe).__name__ == KIND[fp8.recipe]
        assert recipe.fp8_format.name == ("E4M3" if fp8.recipe == "blockwise" else "HYBRID")
        if fp8.recipe == "delayed":
            assert recipe.margin == (fp8.margin or 0)
            assert recipe.amax_history_len == fp8.history_length
        assert config.fp8_param == fp8.parameters
        in_fp8 = [not is_first_last_bf16_layer(config, layer) for layer in range(4)]
        assert in_fp8 == [fp8.is_fp8_layer(layer, 4) for layer in range(4)]
        for layer, is_fp8 in enumerate(in_fp8):
            context = get_fp8_context(config, layer)
            assert isinstance(context, contextlib.nullcontext) == (not is_fp8)


def test_without_a_gpu_transformer_engine_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the stand-ins are needed; our own sentence comes first."""
    from transformer_engine import pytorch as te

    with pytest.raises(AssertionError, match="needs CUDA"):
        te.Linear(16, 16, device="meta")
    with pretended_device(Grid(), 0, 1):
        from megatron_math.model.build import build_model

        sizes = {"grid": Grid(), "dtype": torch.bfloat16, "sequence_length": 128}
        with pytest.raises(UserError, match="a GPU was not found"):
            build_model(ModelConfig(**DENSE), spec="te", **sizes)
        with pytest.raises(UserError, match="no GPU was found; rehearse with"):
            build_model(ModelConfig(**DENSE), fp8=RECIPES["delayed"], **sizes)


def test_adapters_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pretended_device(Grid(), 0, 1),
        pytest.raises(UserError, match="train.lora adapts fc1, and that is a TELayerNorm"),
    ):
        built(monkeypatch, DENSE, Grid(), lora=LoraConfig(rank=4, alpha=8, targets=["fc1"]))
