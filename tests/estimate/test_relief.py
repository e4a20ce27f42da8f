"""What would lower a rank's memory: in order, in figures of the estimator, and only what can be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_math.base.road import Road
from megatron_math.estimate import relief
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import rank_memory
from megatron_math.estimate.relief import reliefs
from megatron_math.estimate.run import Run
from megatron_math.model.presets import load_preset

LAYOUT = Layout(gpus=8, sequence_length=4096, global_batch=64, micro_batch=4)


def test_figures_are_the_estimators_and_stand_in_order() -> None:
    model = load_preset("llama3.1-8b")
    found = reliefs(model, LAYOUT)
    saved = [one.saved_bytes for one in found]
    assert saved == sorted(saved, reverse=True)
    assert min(saved) > 0
    now, _ = rank_memory(model, LAYOUT)
    by_change = {one.change: one for one in found}
    for change, other in (
        ("train.micro_batch_size=1", replace(LAYOUT, micro_batch=1)),
        ("parallel.recompute=full", replace(LAYOUT, recompute="full")),
        ("parallel.tensor=2 parallel.sequence=true", replace(LAYOUT, tensor=2, sequence=True)),
        ("parallel.data=16", replace(LAYOUT, gpus=16)),
    ):
        then, _ = rank_memory(model, other)
        assert by_change[change].total_bytes == then.total
        assert by_change[change].saved_bytes == now.total - then.total
    assert any(one.change.startswith("train.lora.rank=16") for one in found)


def test_what_is_there_already_or_cannot_be_is_not_advised() -> None:
    model = load_preset("llama3.1-8b")
    small = replace(LAYOUT, micro_batch=1, recompute="full", global_batch=8)
    changes = [one.change for one in reliefs(model, small)]
    assert not any("micro_batch" in change or "recompute" in change for change in changes)
    assert "parallel.data=16" not in changes  # 8 samples are no whole batch of 16 replicas
    odd = model.model_copy(update={"num_layers": 31})
    assert not any("pipeline" in one.change for one in reliefs(odd, LAYOUT))


def test_advice_comes_for_a_failure_of_this_start_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "road.yaml").write_text("name: r\n")
    road = Road.load(tmp_path / "road.yaml", runs=tmp_path)
    asked = []

    def read_road(road: Road, gpus: int | None) -> Run:
        asked.append(gpus)
        return Run(load_preset("llama3.1-8b"), LAYOUT, None)

    monkeypatch.setattr(relief, "read_road", read_road)
    assert relief.advice_after(road, tmp_path, since=5.0) is None
    told = {"time": 10.0, "rank": 3, "world": 8, "error": "CUDA out of memory."}
    (tmp_path / "out_of_memory.json").write_text(json.dumps(told))
    assert relief.advice_after(road, tmp_path, since=11.0) is None
    text = relief.advice_after(road, tmp_path, since=9.0)
    assert text is not None
    assert text.startswith("rank 3 ran out of memory (CUDA out of memory.)\nby the estimate")
    assert "parallel.recompute=full" in text
    assert asked == [8]
