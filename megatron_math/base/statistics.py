"""Means with intervals over seeds and items, and tests of paired differences. NumPy only.

Scores are [seeds, items]: the same items asked of the model of every seed. Both are samples: of
other seeds, of other problems of the same kind. The variance of the mean has a part of the seeds'
means (what seeds and items do together is in it) and a part of the items alone, as in a two-way
random model without replicates; degrees of freedom are Welch's. The bootstrap beside it resamples
seeds and items independently of each other (Owen 2007, the pigeonhole bootstrap).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_math.base.student import t_quantile, t_two_sided

Scores = npt.NDArray[np.float64]
AT_ONCE = 1000
EXACT_UP_TO = 16
"""Seeds for which every pattern of signs is tried."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval, and p of the mean being 0.

    p_seeds: from the signs of the seeds' means alone; None for one seed. bootstrap: percentiles of
    resampled means, which are too narrow for fewer than about 20 seeds.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    p: float
    p_seeds: float | None
    bootstrap: tuple[float, float]
    num_seeds: int
    num_items: int


def estimate(
    scores_SI: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 4000, seed: int = 0
) -> Estimate:
    """The mean of scores and how sure it is.

    With one seed only items are looked at, with one item (a loss) only seeds. Where nothing varies
    the interval is the mean alone. resamples: of the bootstrap; 0 leaves it out. Raises ValueError
    without scores.
    """
    scores = np.asarray(scores_SI, dtype=np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores are [seeds, items], found the shape {scores.shape}")
    num_seeds, num_items = scores.shape
    mean = float(scores.mean())
    error, degrees = standard_error(scores)
    width = t_quantile(confidence, degrees) * error if error else 0.0
    if error:
        p = t_two_sided(mean / error, degrees)
    else:
        p = 1.0 if mean == 0 or scores.size == 1 else 0.0
    bootstrap = (mean, mean)
    if resamples:
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(resampled_means(scores, resamples, seed), tails)
        bootstrap = float(low), float(high)
    return Estimate(
        mean=mean,
        low=mean - width,
        high=mean + width,
        standard_error=error,
        p=p,
        p_seeds=sign_flip_p(scores.mean(axis=1)) if num_seeds > 1 else None,
        bootstrap=bootstrap,
        num_seeds=num_seeds,
        num_items=num_items,
    )


def standard_error(scores_SI: Scores) -> tuple[float, float]:
    """Of the mean, and its degrees of freedom (0 where nothing varies)."""
    num_seeds, num_items = scores_SI.shape
    seeds, items = scores_SI.mean(axis=1), scores_SI.mean(axis=0)
    of_seeds = float(seeds.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0
    of_items = float(items.var(ddof=1)) / num_items if num_items > 1 else 0.0
    if num_seeds > 1 and num_items > 1:
        rest = scores_SI - seeds[:, None] - items + scores_SI.mean()
        freedom = (num_seeds - 1) * (num_items - 1)
        together = float((rest**2).sum()) / freedom / scores_SI.size
        of_items = max(0.0, of_items - together)
    variance = of_seeds + of_items
    if variance <= 1e-14 * (1 + float(np.abs(scores_SI).max()) ** 2):  # rounding is no spread
        return 0.0, 0.0
    parts = ((of_seeds, num_seeds), (of_items, num_items))
    return variance**0.5, variance**2 / sum(v * v / (n - 1) for v, n in parts if v)


def resampled_means(scores_SI: Scores, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means of seeds and items drawn with replacement, independently of each other."""
    rng = np.random.default_rng(seed)
    num_seeds, num_items = scores_SI.shape
    means = []
    for first in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - first)
        seeds_BS, items_BI = draw(rng, count, num_seeds), draw(rng, count, num_items)
        means.append((seeds_BS * (items_BI @ scores_SI.T)).sum(axis=1) / scores_SI.size)
    return np.concatenate(means)


def draw(rng: np.random.Generator, resamples: int, size: int) -> npt.NDArray[np.float64]:
    """[resamples, size]: how often each of `size` is drawn, with replacement."""
    drawn = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(np.float64)


def sign_flip_p(differences: npt.ArrayLike, *, resamples: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of a paired permutation test: each difference could have had the other sign.

    Exact up to 16 differences. With n of them it cannot be below 2 / 2^n.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    observed = abs(values.mean())
    if len(values) <= EXACT_UP_TO:
        numbers = np.arange(1 << len(values))[:, None]
        signs = 1.0 - 2.0 * ((numbers >> np.arange(len(values))) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (resamples, len(values)))
        extra = 1
    flipped = np.abs(signs @ values) / len(values)
    as_far = (flipped >= observed * (1 - 1e-12)).sum()
    return float(min(1.0, (as_far + extra) / (len(signs) + extra)))


@dataclass(frozen=True)
class Ratio:
    """One mean over another; low and high are None where the second may be 0."""

    value: float | None
    low: float | None
    high: float | None


def ratio(above_SI: Scores, below_SI: Scores, *, confidence: float = 0.95) -> Ratio:
    """Ratio of the means of paired scores; its interval by Fieller's way.

    A ratio r belongs to the interval while `above - r x below` may have mean 0.
    """

    def belongs(r: float) -> bool:
        rest = estimate(above_SI - r * below_SI, confidence=confidence, resamples=0)
        return rest.low <= 0 <= rest.high

    under = estimate(below_SI, confidence=confidence, resamples=0)
    if under.mean == 0:
        return Ratio(None, None, None)
    value = float(np.mean(above_SI)) / under.mean
    if under.low <= 0 <= under.high:
        return Ratio(value, None, None)
    return Ratio(value, _edge(belongs, value, -1), _edge(belongs, value, 1))


def _edge(belongs: Callable[[float], bool], value: float, sign: int) -> float | None:
    """The last ratio on one side that belongs to the interval; None where there is no end to it."""
    step = 0.05 * (1 + abs(value))
    inside, outside = value, value + sign * step
    while belongs(outside):
        step *= 2
        if step > 1e6:
            return None
        inside, outside = outside, value + sign * step
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if belongs(middle) else (inside, middle)
    return inside
