"""The sides of `make bench-train` compute the same, and one that does not is refused."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench" / "train"
STEPS = 3


@pytest.fixture(scope="module")
def bench() -> Iterator[None]:
    """The bench's modules, which are scripts beside each other, importable for a while."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(BENCH), str(BENCH / "peers")]
    yield
    sys.path[:] = before
    for name in set(sys.modules) - known:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def folder(bench: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = importlib.import_module("cases")
    return cases.make_case(tmp_path_factory.mktemp("bench") / "tiny", cases.SHAPES["tiny"], STEPS)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    from megatron_math.base.road import Road
    from megatron_math.train.run import read_order, train_rank

    road = Road.load(folder / "road.yaml", [], folder / "runs")
    train_rank(road, read_order(road))
    metrics = folder / "runs" / "case" / "50_train" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    sides = importlib.import_module("sides")
    return sides.Steps([], [row["lm loss"] for row in rows], [row["grad-norm"] for row in rows])


SIDES = [
    ("bare", {"compiled": False}),
    ("core", {"local": True}),
    ("core", {"local": False}),
    ("hf_trainer", {}),
]


@pytest.mark.parametrize(("script", "flags"), SIDES)
def test_a_peer_computes_what_ours_does(
    script: str, flags: dict[str, bool], folder: Path, ours: Any
) -> None:
    if script == "hf_trainer" and importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is in the bench's own environment, not in this one")
    told = _steps(script, flags, folder)
    assert importlib.import_module("sides").difference(told, ours, "fp32") is None
    assert len(told.losses) == STEPS


def test_another_seed_rate_or_length_is_refused(folder: Path, ours: Any) -> None:
    sides, case = importlib.import_module("sides"), importlib.import_module("case")
    told = _steps("bare", {"compiled": False}, folder, lr=3e-2)
    assert "in step" in sides.difference(told, ours, "fp32")
    assert "step 1" not in sides.difference(told, ours, "fp32")  # the rate shows later
    told = _steps("bare", {"compiled": False}, folder, skip=1)
    assert "step 1" in sides.difference(told, ours, "fp32")
    short = sides.Steps([], ours.losses[:-1], ours.grad_norms[:-1])
    assert "2 steps for 3" in sides.difference(short, ours, "fp32")
    assert case.read_case(folder, "fp32").steps == STEPS


def _steps(
    script: str, flags: dict[str, bool], folder: Path, *, skip: int = 0, **settings: float
) -> Any:
    case = importlib.import_module("case").read_case(folder, "fp32")
    case.settings.update(settings)
    if skip:
        case.rows[:] = case.rows[::-1].copy()
    steps = importlib.import_module("sides").Steps()

    def say(step: int, loss: float, grad_norm: float | None = None) -> None:
        steps.losses.append(loss)
        steps.grad_norms.append(grad_norm)

    importlib.import_module(script).train(case, say, **flags)
    return steps
