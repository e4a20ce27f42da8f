"""Means with intervals over seeds and items, and tests of paired differences. NumPy only.

Scores are [seeds, items]: the same items asked of the model of every seed. Both are samples (other
seeds, other problems of the same kind), so both are resampled, independently of each other
(Owen 2007, the pigeonhole bootstrap), and every resampled mean is divided by its own standard error
(bootstrap-t), without which five seeds give intervals that are far too short. The standard error is
that of a two-way random model without replicates: mean squares of seeds, items and the rest, parts
that come out negative taken as nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
AT_ONCE = 500
EXACT_UP_TO = 16
"""Seeds for which every pattern of signs is tried."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval, and p of the mean being 0. p_seeds: from signs of the seeds alone."""

    mean: float
    low: float
    high: float
    standard_error: float
    p: float
    p_seeds: float | None
    num_seeds: int
    num_items: int


def estimate(
    scores_SI: Scores, *, confidence: float = 0.95, resamples: int = 4000, seed: int = 0
) -> Estimate:
    """The mean of scores with its bootstrap-t interval.

    With one seed only items are resampled, with one item (a loss) only seeds. Where nothing varies
    the interval is the mean alone. Raises ValueError without scores.
    """
    scores = np.asarray(scores_SI, dtype=np.float64)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores are [seeds, items], found the shape {scores.shape}")
    num_seeds, num_items = scores.shape
    mean, error = (float(part[0]) for part in _moments(scores, *_once(num_seeds, num_items)))
    p_seeds = sign_flip_p(scores.mean(axis=1)) if num_seeds > 1 else None
    if error == 0:
        p = 1.0 if mean == 0 or scores.size == 1 else 1 / resamples
        return Estimate(mean, mean, mean, 0.0, p, p_seeds, num_seeds, num_items)
    pivots = studentized(scores, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    low_pivot, high_pivot = np.quantile(pivots, [tail, 1 - tail])
    observed = mean / error
    count = len(pivots)
    above, below = (pivots >= observed).sum(), (pivots <= observed).sum()
    return Estimate(
        mean=mean,
        low=mean - float(high_pivot) * error,
        high=mean - float(low_pivot) * error,
        standard_error=error,
        p=float(min(1.0, 2 * (1 + min(above, below)) / (1 + count))),
        p_seeds=p_seeds,
        num_seeds=num_seeds,
        num_items=num_items,
    )


def studentized(scores_SI: Scores, *, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """(resampled mean - mean) / resampled standard error, of every resample that has one."""
    rng = np.random.default_rng(seed)
    num_seeds, num_items = scores_SI.shape
    mean = scores_SI.mean()
    parts = []
    for first in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - first)
        weights = draw(rng, count, num_seeds), draw(rng, count, num_items)
        means, errors = _moments(scores_SI, *weights)
        parts.append((means - mean)[errors > 0] / errors[errors > 0])
    return np.concatenate(parts)


def draw(rng: np.random.Generator, resamples: int, size: int) -> npt.NDArray[np.float64]:
    """[resamples, size]: how often each of `size` is drawn, with replacement."""
    drawn = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(np.float64)


def _once(num_seeds: int, num_items: int) -> tuple[Scores, Scores]:
    return np.ones((1, num_seeds)), np.ones((1, num_items))


def _moments(scores_SI: Scores, seeds_BS: Scores, items_BI: Scores) -> tuple[Scores, Scores]:
    """Mean and standard error of every resample, given how often seeds and items are in it."""
    num_seeds, num_items = scores_SI.shape
    rows_BS = items_BI @ scores_SI.T / num_items
    mean_B = (seeds_BS * rows_BS).sum(1) / num_seeds
    rows = num_items * (seeds_BS * (rows_BS - mean_B[:, None]) ** 2).sum(1)
    squares_BS = items_BI @ (scores_SI**2).T
    whole = (seeds_BS * squares_BS).sum(1) - num_seeds * num_items * mean_B**2
    if num_seeds == 1:
        variance = whole / max(1, num_items - 1) / num_items
    elif num_items == 1:
        variance = rows / (num_seeds - 1) / num_seeds
    else:
        columns_BI = seeds_BS @ scores_SI / num_seeds
        columns = num_seeds * (items_BI * (columns_BI - mean_B[:, None]) ** 2).sum(1)
        rest = (whole - rows - columns) / ((num_seeds - 1) * (num_items - 1))
        of_seeds, of_items = rows / (num_seeds - 1), columns / (num_items - 1)
        rest = np.maximum(rest, 0)
        parts = rest + np.maximum(of_seeds - rest, 0) + np.maximum(of_items - rest, 0)
        variance = parts / (num_seeds * num_items)
    variance = np.where(variance > 1e-14 * (1 + mean_B**2), variance, 0)  # rounding is no spread
    return mean_B, np.sqrt(variance)


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


def ratio(
    above_SI: Scores,
    below_SI: Scores,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Ratio:
    """Ratio of the means of paired scores; its interval by Fieller's way.

    A ratio r belongs to the interval while `above - r x below` may have mean 0.
    """

    def found(scores_SI: Scores) -> Estimate:
        return estimate(scores_SI, confidence=confidence, resamples=resamples, seed=seed)

    def belongs(r: float) -> bool:
        rest = found(above_SI - r * below_SI)
        return rest.low <= 0 <= rest.high

    under = found(below_SI)
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
    for _ in range(18):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if belongs(middle) else (inside, middle)
    return inside
