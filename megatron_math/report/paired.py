"""Two models on the same problems: the difference of their scores, its interval, its p."""

from collections.abc import Mapping
from typing import Any

from megatron_math.base.proportions import mcnemar_p, paired_interval


def paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> dict[str, Any] | None:
    """second - first over the problems (by id) that both were asked; None where there are none.

    The interval is Newcombe's for paired proportions, p that of McNemar's exact test.
    """
    shared = first.keys() & second.keys()
    if not shared:
        return None
    gained = sum(second[key] and not first[key] for key in shared)
    lost = sum(first[key] and not second[key] for key in shared)
    both = sum(first[key] and second[key] for key in shared)
    low, high = paired_interval(both, gained, lost, len(shared))
    return {
        "n": len(shared),
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / len(shared),
        "interval95": [low, high],
        "p": mcnemar_p(gained, lost),
        "verdict": "unclear" if low <= 0 <= high else "up" if low > 0 else "down",
    }
