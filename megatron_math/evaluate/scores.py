"""From judged predictions to scores: counts, accuracy, a 95 % interval, groups.

Pure arithmetic on the rows of predictions.jsonl; docs/formats.md fixes both files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Two-sided 95 % quantile of the normal distribution.
Z = 1.959963984540054


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for `correct` of `n`: right for small n and at 0 and 1 too."""
    assert 0 <= correct <= n, (correct, n)
    assert n > 0
    share = correct / n
    width = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """n, correct, accuracy and interval of prediction rows (at least one)."""
    n, correct = len(rows), sum(row["correct"] for row in rows)
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "interval95": list(wilson_interval(correct, n)),
    }


def count_groups(
    rows: Sequence[Mapping[str, Any]], groupings: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Counts by the values of `meta` keys, such as {"level=1, operands_seen=false": {...}}.

    groupings: tuples of meta keys, one table for each. A row without the key is counted under
    `key=missing`, so that the groups of one table always add up to the whole.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for keys in groupings:
        names: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            name = ", ".join(f"{key}={_show(row['meta'].get(key))}" for key in keys)
            names.setdefault(name, []).append(row)
        groups |= dict(sorted(names.items()))
    return {name: count(members) for name, members in groups.items()}


def _show(value: Any) -> str:
    if value is None:
        return "missing"
    return str(value).lower() if isinstance(value, bool) else str(value)
