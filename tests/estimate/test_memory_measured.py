"""Estimates against the bytes of real tensors, in two processes of Megatron-Core on this CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_math.device.start import start_processes
from megatron_math.estimate.memory import layer_bytes_per_token, stage_memory

sys.path.append(str(Path(__file__).parent))
from measured import LAYOUTS, MODEL, layout_of


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("measured") / "results.json"
    script = Path(__file__).with_name("measured.py")
    assert start_processes([sys.executable, str(script), str(results)], 2) == 0
    return json.loads(results.read_text())


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_gradients_and_optimizer_to_the_byte(found: dict[str, Any], name: str) -> None:
    for rank in found[name]["ranks"]:
        memory = stage_memory(MODEL, layout_of(LAYOUTS[name]), rank["stage"])
        for kind in ("weights", "gradients", "optimizer"):
            assert getattr(memory, kind) == rank[kind], kind


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "pipeline" not in name])
def test_what_a_layer_keeps_to_the_byte(found: dict[str, Any], name: str) -> None:
    layout = layout_of(LAYOUTS[name])
    estimated = layer_bytes_per_token(MODEL, layout) * layout.tokens_per_micro_batch
    assert [rank["layer"] for rank in found[name]["ranks"]] == [estimated] * 2
