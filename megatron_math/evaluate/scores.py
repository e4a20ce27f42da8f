"""From judged predictions to scores: counts, accuracy, a 95 % interval, groups.

Pure arithmetic on the rows of predictions.jsonl; docs/formats.md fixes both files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_math.base.proportions import wilson_interval


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """n, correct, accuracy and interval of prediction rows (at least one)."""
    n, correct = len(rows), sum(row["correct"] for row in rows)
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "interval95": list(wilson_interval(correct, n)),
    }


def count_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Counts by the groups in each row's `meta`, such as {"level=1, operands_seen=false": {...}}.

    A row without a group that other rows have is counted under `group=missing`, so that the values
    of one group always add up to the whole.
    """
    names = dict.fromkeys(name for row in rows for name in row["meta"])
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        members: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            members.setdefault(group_label(name, row["meta"].get(name)), []).append(row)
        groups |= {label: count(members[label]) for label in sorted(members)}
    return groups


def group_label(name: str, value: str | None) -> str:
    """ "level, operands_seen" and "1, true" read "level=1, operands_seen=true"."""
    if value is None:
        return f"{name}=missing"
    names, values = name.split(", "), value.split(", ")
    if len(names) != len(values):  # a value with a comma in it
        return f"{name}={value}"
    return ", ".join(f"{key}={part}" for key, part in zip(names, values, strict=True))
