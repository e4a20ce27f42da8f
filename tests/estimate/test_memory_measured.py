"""Estimates against the bytes of real tensors, in two processes of Megatron-Core on this CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from loaded import loaded

from megatron_math.estimate.activations import layer_bytes_per_token
from megatron_math.estimate.memory import stage_memory
from megatron_math.model.config import ModelConfig

sys.path.append(str(Path(__file__).parent))
from measured import LAYOUTS, layout_of
from measured import model_of as model_in

SHAPE = "narrow"


def model_of(name: str) -> ModelConfig:
    return model_in(name, SHAPE)


KEPT = [name for name in LAYOUTS if "pipeline" not in name]
ROUTED = [name for name in KEPT if "experts" in name]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("measured") / "results.json"
    script = Path(__file__).with_name("measured.py")
    assert loaded().start_processes([sys.executable, str(script), str(results), SHAPE], 2) == 0
    return json.loads(results.read_text())


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_gradients_and_optimizer_to_the_byte(found: dict[str, Any], name: str) -> None:
    for rank in found[name]["ranks"]:
        memory = stage_memory(model_of(name), layout_of(name), rank["stage"])
        for kind in ("weights", "gradients", "optimizer"):
            assert getattr(memory, kind) == rank[kind], kind


@pytest.mark.parametrize("name", [name for name in KEPT if name not in ROUTED])
def test_what_a_layer_keeps_to_the_byte(found: dict[str, Any], name: str) -> None:
    layout = layout_of(name)
    estimated = layer_bytes_per_token(model_of(name), layout) * layout.tokens_per_micro_batch
    assert [rank["layer"] for rank in found[name]["ranks"]] == [estimated] * 2


@pytest.mark.parametrize("name", ROUTED)
def test_what_a_layer_with_experts_keeps(found: dict[str, Any], name: str) -> None:
    """Fresh routers do not balance: the mean over the ranks is what is estimated.

    But for the router's weights in fp32, and three numbers of its balance loss, to the byte.
    """
    layout = layout_of(name)
    estimated = layer_bytes_per_token(model_of(name), layout) * layout.tokens_per_micro_batch
    measured = sum(rank["layer"] for rank in found[name]["ranks"]) / 2
    assert estimated == pytest.approx(measured, rel=0.001)
