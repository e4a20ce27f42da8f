"""Emulated FP8 in whole runs: resumed, computed again, shadowed, cut, switched on and off."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import loaded
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.base.road import Road
from megatron_math.device.on_cpu import patch_cpu
from megatron_math.train import run as train_run

SHORT = "train.validation_samples=0"
TEN = (SHORT, "train.global_batch_size=16", "train.micro_batch_size=16")
FEW = (SHORT, "train.global_batch_size=64", "train.micro_batch_size=32")


def fp8(recipe: str, **settings: Any) -> str:
    """The override that asks for emulated FP8."""
    settings = {"recipe": recipe, "backend": "emulate"} | settings
    return f"precision.fp8={json.dumps(settings)}"


DELAYED = fp8("delayed", amax_history=16)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch):
    """train(road, *overrides, stop_after=None): rows of metrics.jsonl; in this very process."""
    monkeypatch.setattr(train_run, "launched_ranks", lambda: (0, 1, 0))

    def run(road: Road, *overrides: str, stop_after: int | None = None) -> list[dict[str, Any]]:
        stop = [] if stop_after is None else [f"train.stop_after={stop_after}"]
        road = Road.load(road.yaml_path, [*road.overrides, *overrides, *stop], road.runs)
        if stop_after is None:
            train_run.run(road)
        else:
            with pytest.raises(StoppedOnRequest):
                train_run.run(road)
        return metrics(road)

    return run


@pytest.fixture
def module():
    """The module under test; megatron.core wants its patches first."""
    patch_cpu()
    from megatron_math.model import fp8

    return fp8


def losses(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(row["lm loss"], row["grad-norm"]) for row in rows]


def test_delayed_scaling_resumes_recomputes_and_is_shadowed_byte_for_byte(
    train, copy_of, module, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = losses(train(copy_of("unbroken", *TEN, DELAYED), stop_after=6))

    road = copy_of("resumed", *TEN)
    shadowed = fp8("delayed", amax_history=16, shadow_interval=2)
    train(road, shadowed, stop_after=3)
    rows = train(road, shadowed, "parallel.recompute=full", stop_after=6)
    assert losses(rows) == unbroken
    gaps = {row["iteration"]: row["fp8/loss-gap"] for row in rows if "fp8/loss-gap" in row}
    assert list(gaps) == [2, 4, 6]
    assert all(0 < abs(gap) < 0.005 for gap in gaps.values()), gaps

    # Control: without what delayed scaling remembers the run goes on differently.
    monkeypatch.setattr(module.Delayed, "load", lambda self, state: None)
    road = copy_of("forgetful", *TEN, DELAYED)
    train(road, stop_after=3)
    rows = train(road, stop_after=4)
    assert losses(rows)[:3] == unbroken[:3]
    assert losses(rows)[3] != unbroken[3]


def test_fp8_goes_and_comes_at_a_checkpoint(train, copy_of) -> None:
    road = copy_of("switched", *TEN)
    train(road, DELAYED, stop_after=2)
    rows = train(road, stop_after=4)
    assert [row.get("fp8") for row in rows] == ["delayed", "delayed", None, None]
    train(road, fp8("delayed", amax_history=2), stop_after=6)
    rows = train(road, fp8("blockwise"))
    without = copy_of("without", *TEN)
    for mine, yours in zip(rows, train(without), strict=True):
        assert mine["lm loss"] != yours["lm loss"]
        assert mine["lm loss"] == pytest.approx(yours["lm loss"], rel=0.005)

    with pytest.raises(UserError, match=r"other settings \(config.precision.fp8"):
        train(without, DELAYED)  # it is finished: nothing of it would be in FP8
    with pytest.raises(UserError, match="lr"):
        train(road, fp8("blockwise"), "train.lr=1e-4")


def test_a_bad_recipe_is_seen(
    train, copy_of, module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """10 steps in bf16: FP8 stays within 0.5 %, all scales 2^-8 do not, and the shadow tells."""
    bf16 = ("precision.dtype=bf16", *TEN)
    tensorwise = fp8("tensorwise", shadow_interval=5)
    reference = train(copy_of("bf16", *bf16))[-1]["lm loss"]
    good = train(copy_of("good", *bf16, tensorwise))[-1]["lm loss"]
    assert good == pytest.approx(reference, rel=0.005)
    assert "the loss in FP8 is" not in caplog.text

    monkeypatch.setattr(
        module, "current_scale", lambda amax, dtype, **_: torch.full_like(amax, 2.0**-8)
    )
    rows = train(copy_of("bad", *bf16, tensorwise))
    assert rows[-1]["lm loss"] != pytest.approx(reference, rel=0.005)
    assert all(abs(row["fp8/loss-gap"]) > 0.005 for row in rows if "fp8/loss-gap" in row)
    assert "the loss in FP8 is" in caplog.text


def test_tensor_parallel_computes_what_one_process_does(
    train, prepared: Path, copy_of, module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of whole tensors are those of one process, however ranks hold the tensor.

    One last bit may round a value to its neighbour in FP8, so the layouts agree to 1e-3 only; what
    delayed scaling remembers of weights is sharper, and crosses layouts in the checkpoint.
    """
    layouts = {
        "delayed": ["parallel.sequence=true", DELAYED, "train.stop_after=2"],
        "tensorwise": [fp8("tensorwise")],
        "tensorwise, sequence": ["parallel.sequence=true", fp8("tensorwise")],
    }
    jobs = []
    for name, overrides in layouts.items():
        shutil.copytree(prepared / "runs", tmp_path / name, symlinks=True)
        overrides = [*FEW, "parallel.tensor=2", *overrides]
        jobs.append([str(prepared / "road.yaml"), overrides, str(tmp_path / name)])
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("train_several.py")
    assert (
        loaded().start_processes([sys.executable, str(script), str(tmp_path / "jobs.json")], 2) == 0
    )
    rows = {
        name: losses(metrics(Road.load(Path(yaml), overrides, Path(runs))))
        for name, (yaml, overrides, runs) in zip(layouts, jobs, strict=True)
    }
    assert rows["tensorwise"] == rows["tensorwise, sequence"]
    assert len(rows["tensorwise"]) == 3

    states: list[torch.Tensor] = []
    load = module.Delayed.load

    def load_and_tell(self, state: torch.Tensor) -> None:
        states.append(state.clone())
        load(self, state)

    monkeypatch.setattr(module.Delayed, "load", load_and_tell)
    alone = copy_of("delayed alone", *FEW)
    train(alone, DELAYED, stop_after=2)
    rows["delayed alone"] = losses(train(alone, DELAYED))
    of_one = torch.stack(states)
    states.clear()
    cut = Road.load(prepared / "road.yaml", FEW, tmp_path / "delayed")
    rows["delayed"] = losses(train(cut, DELAYED))
    of_two = torch.stack(states)
    assert len(rows["delayed"]) == 3
    assert of_one.shape == of_two.shape == (16, 17, 3)
    assert of_one[:, 1:].count_nonzero() == 16 * (2 * 4 + 2)  # weights: once a step
    assert torch.allclose(of_one[..., module.WEIGHT], of_two[..., module.WEIGHT], rtol=2e-3, atol=0)
    assert torch.allclose(of_one, of_two, rtol=0.2, atol=0)
    for (mine, _), (yours, _) in zip(rows["delayed"], rows["delayed alone"], strict=True):
        assert mine == pytest.approx(yours, rel=1e-3)
