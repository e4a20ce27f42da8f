"""Curves of a training run, short enough to be read and printed.

Reads 50_train/metrics.jsonl and validation.jsonl. Training losses are means over equal runs of
consecutive iterations (at most `NUM_POINTS` of them); validation losses are shown one by one.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.records import enumerate_rows

NUM_POINTS = 48
ALL = "all sources"
COURSE = {
    "tokens_per_second": "tokens_per_second",
    "learning_rate": "learning-rate",
    "grad_norm": "grad-norm",
}


def read_training(folder: Path) -> dict[str, Any] | None:
    """Curves and totals of the run in `folder`; None when it has not made a step.

    x of every point is the number of training tokens consumed. Raises UserError when
    validation.jsonl names an iteration that metrics.jsonl does not have.
    """
    rows = _rows(folder / "metrics.jsonl")
    if not rows:
        return None
    validation = _rows(folder / "validation.jsonl")
    tokens_at = {0: 0} | {row["iteration"]: row["consumed_tokens"] for row in rows}
    for row in validation:
        if row["iteration"] not in tokens_at:
            raise UserError(
                f"{folder / 'validation.jsonl'} has iteration {row['iteration']}, which "
                f"{folder / 'metrics.jsonl'} has not; the two are not of one run"
            )
    sources = list(dict.fromkeys(key for row in rows for key in row if key.startswith("loss/")))
    names = [key.removeprefix("loss/") for key in sources]
    names += [name for row in validation for name in row["loss"] if name not in names]
    curves = [_curve(rows, validation, tokens_at, name) for name in dict.fromkeys(names)]
    if len(curves) > 1:
        curves.insert(0, _curve(rows, validation, tokens_at, ALL))
    return {
        "iterations": rows[-1]["iteration"],
        "samples": rows[-1]["consumed_samples"],
        "tokens": rows[-1]["consumed_tokens"],
        "step_seconds": round(math.fsum(row["elapsed_ms"] for row in rows) / 1000, 1),
        "median_tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
        **_gauged(rows),
        "not_finite": sum(not _finite(row["lm loss"]) for row in rows),
        "stages": _stages(rows),
        "curves": curves,
        "course": _course(rows),
    }


def _gauged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """MFU by the peak it is of (a run may go on in another precision), and the fullest memory.

    Of a GPU what was taken from its driver counts, of a CPU the largest process.
    """
    shares: dict[str, list[float]] = {}
    for row in rows:
        if "mfu" in row:
            shares.setdefault(row["mfu_peak"], []).append(row["mfu"])
    kinds = ("peak_reserved_bytes", "peak_process_bytes")
    peaks = [row[kind] for row in rows for kind in kinds if kind in row]
    return {
        "median_mfu": {peak: statistics.median(values) for peak, values in shares.items()},
        **({"peak_memory_gib": round(max(peaks) / 2**30, 2)} if peaks else {}),
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in enumerate_rows(path)] if path.is_file() else []


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _curve(
    rows: list[dict[str, Any]],
    validation: list[dict[str, Any]],
    tokens_at: dict[int, int],
    name: str,
) -> dict[str, Any]:
    key = "lm loss" if name == ALL else f"loss/{name}"
    train = [
        {"tokens": tokens, "loss": loss}
        for tokens, loss in binned(rows, lambda row: row.get(key), statistics.fmean)
    ]
    held_out = [
        {"tokens": tokens_at[row["iteration"]], "loss": loss}
        for row in validation
        if (loss := _validation_loss(row, name)) is not None
    ]
    return {
        "source": name,
        "train": train,
        "validation": held_out,
        "first_validation": held_out[0]["loss"] if held_out else None,
        "last_validation": held_out[-1]["loss"] if held_out else None,
        "last_train": train[-1]["loss"] if train else None,
    }


def _validation_loss(row: dict[str, Any], name: str) -> float | None:
    """The loss of one source, or of all together by tokens; None where it is not finite."""
    if name == ALL:
        total = sum(row["tokens"].values())
        loss = (
            sum(row["loss"][s] * row["tokens"][s] for s in row["loss"]) / total if total else None
        )
    else:
        loss = row["loss"].get(name)
    return loss if _finite(loss) else None


def binned(
    rows: list[dict[str, Any]],
    value_of: Callable[[dict[str, Any]], float | None],
    middle: Callable[[Iterable[float]], float],
) -> list[tuple[int, float]]:
    """(tokens consumed at the end of the run of rows, middle of the finite values in it)."""
    per_bin = max(1, math.ceil(len(rows) / NUM_POINTS))
    points = []
    for first in range(0, len(rows), per_bin):
        part = rows[first : first + per_bin]
        values = [
            float(value) for row in part if _finite(value := value_of(row)) and value is not None
        ]
        if values:
            points.append((part[-1]["consumed_tokens"], middle(values)))
    return points


def _course(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed, learning rate and gradient norm over time: medians of the same runs of iterations."""
    course: dict[int, dict[str, Any]] = {}
    for name, key in COURSE.items():
        for tokens, value in binned(rows, lambda row, key=key: row.get(key), statistics.median):  # type: ignore[misc]
            course.setdefault(tokens, {"tokens": tokens} | dict.fromkeys(COURSE))[name] = value
    return [course[tokens] for tokens in sorted(course)]


def _stages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plan's stages in the order they were trained, with the tokens at which each began."""
    stages: list[dict[str, Any]] = []
    before = 0
    for row in rows:
        name = row.get("stage")
        if name is not None and (not stages or stages[-1]["stage"] != name):
            stages.append({"stage": name, "from_tokens": before})
        before = row["consumed_tokens"]
    return stages
