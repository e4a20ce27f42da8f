"""Shares of right answers: their intervals, and two models on the same problems."""

import math

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for `correct` of `n`: right for small n and at 0 and 1 too."""
    assert 0 <= correct <= n, (correct, n)
    assert n > 0
    share = correct / n
    width = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def paired_interval(both: int, gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / n, of `both` right twice and the rest of n wrong twice.

    Newcombe's for paired proportions (1998, Statistics in Medicine 17, 2635, method 10).
    """
    before, after = (both + lost) / n, (both + gained) / n
    low_before, high_before = wilson_interval(both + lost, n)
    low_after, high_after = wilson_interval(both + gained, n)
    phi = _correlation(both, gained, lost, n - both - gained - lost)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    difference = (gained - lost) / n
    return (
        difference - reach(after - low_after, high_before - before),
        difference + reach(high_after - after, before - low_before),
    )


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi of the four counts, made smaller by the method's correction where it is above 0."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if not margins:
        return 0.0
    above = both * neither - gained * lost
    n = both + gained + lost + neither
    return (max(above - n / 2, 0.0) if above > 0 else above) / math.sqrt(margins)


def mcnemar_p(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided: so uneven a split by a fair coin, or a more uneven one."""
    n, least = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**n)
