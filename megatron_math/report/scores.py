"""Scores before and after, by benchmark and group, and what may be said about their difference.

Reads 70_evaluate/<before|after>/<benchmark>/{scores.json, predictions.jsonl}, and missing.json
where a side has a reason instead of scores.
"""

import math
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.records import enumerate_rows

WHO = ("before", "after")
PROTOCOL_KEYS = (
    "rows", "limit", "shots", "way", "samples", "pick", "decoding", "dtype", "max_new_tokens",
    "stop", "answer_rules",
)  # fmt: skip


# Of ways of asking that have more to tell than one share.
MORE_KEYS = ("samples", "tool", "likelihood")


def side_folder(folder: Path, who: str) -> Path:
    """Where a side's answers lie: a model that `evaluate.engine` names (other) stands for after."""
    other = folder / "other"
    return other if who == "after" and other.is_dir() else folder / who


def read_scores(folder: Path, order: list[str]) -> list[dict[str, Any]]:
    """One entry a benchmark, those in `order` first; its first row is the whole benchmark.

    A side that was not scored is None. Raises UserError when a score contradicts itself.
    """
    found = {
        path.parent.name for who in WHO for path in side_folder(folder, who).glob("*/scores.json")
    }
    return [_benchmark(folder, name) for name in order + sorted(found - set(order))]


def read_reasons(folder: Path) -> dict[str, str]:
    """Why a side has no scores at all, by side, where the evaluation said so."""
    paths = {who: side_folder(folder, who) / "missing.json" for who in WHO}
    return {who: read_json(path)["missing"] for who, path in paths.items() if path.is_file()}


def read_summaries(folder: Path) -> dict[str, Any]:
    """A paper's one number by side, where a protocol asked."""
    paths = {who: side_folder(folder, who) / "summary.json" for who in WHO}
    return {who: read_json(path) for who, path in paths.items() if path.is_file()}


def _benchmark(folder: Path, name: str) -> dict[str, Any]:
    sides = {who: read_side(side_folder(folder, who) / name / "scores.json") for who in WHO}
    groups = {g: None for one in sides.values() for g in (one or {}).get("groups", {})}
    asked = [side["protocol"] or {} for side in sides.values() if side]
    told = next((side for side in reversed(sides.values()) if side), {})
    return {
        "benchmark": name,
        "version": told.get("version"),
        "grader": told.get("grader"),
        "protocol": {key: asked[-1].get(key) for key in PROTOCOL_KEYS} if asked else None,
        "asked_differently": [
            key for key in PROTOCOL_KEYS if len({str(protocol.get(key)) for protocol in asked}) > 1
        ],
        "truncated": {who: side and side.get("truncated") for who, side in sides.items()},
        "no_answer": {who: side and side.get("no_answer") for who, side in sides.items()},
        "more": {
            who: {key: side.get(key) for key in MORE_KEYS}
            for who, side in sides.items()
            if side and any(key in side for key in MORE_KEYS)
        },
        "rows": [_row(None, sides["before"], sides["after"])]
        + [
            _row(group, *((sides[who] or {}).get("groups", {}).get(group) for who in WHO))
            for group in groups
        ],
    }


def read_side(path: Path) -> dict[str, Any] | None:
    """A scores.json that agrees with itself; None when there is none."""
    if not path.is_file():
        return None
    scores: dict[str, Any] = read_json(path)
    for where, part in {"": scores, **scores.get("groups", {})}.items():
        if part["n"] and not math.isclose(part["correct"] / part["n"], part["accuracy"]):
            raise UserError(
                f"{path} contradicts itself{where and f' in group {where}'}: {part['correct']} of "
                f"{part['n']} right is not an accuracy of {part['accuracy']}; grade it again"
            )
    return scores


def _row(
    group: str | None, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> dict[str, Any]:
    sides = {"before": score_of(before), "after": score_of(after)}
    return {
        "group": group,
        "by": group and ", ".join(part.partition("=")[0] for part in group.split(", ")),
        **sides,
        "gain": gain(sides["before"], sides["after"]),
    }


def score_of(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The four numbers of a score; None when nothing was asked."""
    if part is None or not part["n"]:
        return None
    return {key: part[key] for key in ("n", "correct", "accuracy", "interval95")}


def gain(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """Difference of two accuracies with a 95 % interval, and a verdict in one word.

    Square-and-add of the two intervals (Newcombe 1998, Statistics in Medicine 17, method 10),
    which takes the two as independent samples. Asking both models the same questions makes the
    true interval narrower, so a clear verdict stays clear.
    """
    if before is None or after is None:
        return None
    difference = after["accuracy"] - before["accuracy"]
    (low_before, high_before), (low_after, high_after) = before["interval95"], after["interval95"]
    down = math.hypot(after["accuracy"] - low_after, high_before - before["accuracy"])
    up = math.hypot(high_after - after["accuracy"], before["accuracy"] - low_before)
    interval = [difference - down, difference + up]
    verdict = "unclear" if interval[0] <= 0 <= interval[1] else "up" if difference > 0 else "down"
    return {"difference": difference, "interval95": interval, "verdict": verdict}


def verdicts_in(path: Path) -> dict[str, bool]:
    """Id -> was it right, of a predictions file; empty where there is none."""
    if not path.is_file():
        return {}
    return {str(row["id"]): bool(row["correct"]) for _, row in enumerate_rows(path)}
