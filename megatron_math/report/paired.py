"""Two models on the same problems: the difference of their scores, its interval, its p."""

import math
from collections.abc import Mapping
from typing import Any

Z = 1.959963984540054


def paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> dict[str, Any] | None:
    """second - first over the problems (by id) that both were asked; None where there are none.

    The interval is Newcombe's for paired proportions (1998, Statistics in Medicine 17, 2635,
    method 10), p that of McNemar's exact test.
    """
    shared = first.keys() & second.keys()
    if not shared:
        return None
    gained = sum(second[key] and not first[key] for key in shared)
    lost = sum(first[key] and not second[key] for key in shared)
    both = sum(first[key] and second[key] for key in shared)
    low, high = interval(both, gained, lost, len(shared))
    return {
        "n": len(shared),
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / len(shared),
        "interval95": [low, high],
        "p": mcnemar(gained, lost),
        "verdict": "unclear" if low <= 0 <= high else "up" if low > 0 else "down",
    }


def interval(both: int, gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / n, of `both` right twice and the rest of n wrong twice."""
    before, after = (both + lost) / n, (both + gained) / n
    low_before, high_before = wilson(before, n)
    low_after, high_after = wilson(after, n)
    phi = _correlation(both, gained, lost, n - both - gained - lost)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    difference = (gained - lost) / n
    return (
        difference - reach(after - low_after, high_before - before),
        difference + reach(high_after - after, before - low_before),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi of the four counts, made smaller by the method's correction where it is above 0."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if not margins:
        return 0.0
    above = both * neither - gained * lost
    n = both + gained + lost + neither
    return (max(above - n / 2, 0.0) if above > 0 else above) / math.sqrt(margins)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of as uneven a split of the changed verdicts."""
    changed, fewer = gained + lost, min(gained, lost)
    if not changed:
        return 1.0
    log_half = changed * math.log(0.5)
    tail = math.fsum(
        math.exp(math.lgamma(changed + 1) - math.lgamma(k + 1) - math.lgamma(changed - k + 1)
                 + log_half)
        for k in range(fewer + 1)
    )  # fmt: skip
    return min(1.0, 2 * tail)
