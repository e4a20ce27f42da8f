"""Intervals that cover as often as they say, p values that SciPy gives, and controls that fail.

Golden values are SciPy 1.17.1's; where SciPy is installed it is asked again.
"""

from typing import Any

import numpy as np
import pytest

from megatron_math.base.statistics import (
    draw,
    estimate,
    ratio,
    resampled_means,
    sign_flip_p,
    standard_error,
)
from megatron_math.base.student import t_quantile, t_two_sided
from megatron_math.study.net_gain import PUBLISHED, net_gain

SIMULATIONS = 1000
DIFFERENCES = [0.8, -0.3, 1.1, 0.6, 0.2, 1.4, -0.1, 0.9]


def scores(
    rng: np.random.Generator, seeds: int, items: int, of_seeds: float, of_items: float
) -> np.ndarray:
    """Right or wrong, one half of them right on average over seeds and items."""
    ease = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_items, (1, items))
    return (rng.random((seeds, items)) < 1 / (1 + np.exp(-ease))).astype(float)


def coverage(draw_scores: Any, truth: float) -> float:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(SIMULATIONS):
        found = estimate(draw_scores(rng), resamples=0)
        held += found.low <= truth <= found.high
    return held / SIMULATIONS


def bootstrap_coverage(draw_scores: Any, truth: float) -> float:
    rng = np.random.default_rng(6)
    held = 0
    for number in range(SIMULATIONS):
        means = resampled_means(draw_scores(rng), 300, number)
        low, high = np.quantile(means, [0.025, 0.975])
        held += low <= truth <= high
    return held / SIMULATIONS


@pytest.mark.parametrize(
    ("seeds", "items", "of_seeds", "of_items"),
    [(5, 60, 0.5, 1.0), (5, 60, 0.0, 1.0), (5, 300, 0.3, 1.0), (8, 60, 1.0, 0.3), (1, 400, 0, 0)],
)
def test_intervals_of_scores_cover_as_often_as_they_say(
    seeds: int, items: int, of_seeds: float, of_items: float
) -> None:
    found = coverage(lambda rng: scores(rng, seeds, items, of_seeds, of_items), 0.5)
    assert found == pytest.approx(0.95, abs=0.02)


def two_arms(rng: np.random.Generator, seeds: int, items: int, of_seeds: float) -> np.ndarray:
    """Differences of two arms that are equally good, whose items are equally hard for both."""
    ease = rng.normal(0, of_seeds, (2, seeds, 1)) + rng.normal(0, 1, (1, 1, items))
    first, second = (rng.random((2, seeds, items)) < 1 / (1 + np.exp(-ease))).astype(float)
    return first - second


@pytest.mark.parametrize(("seeds", "of_seeds"), [(5, 0.0), (5, 0.3), (6, 0.5), (10, 0.5)])
def test_intervals_of_paired_differences_cover_too(seeds: int, of_seeds: float) -> None:
    found = coverage(lambda rng: two_arms(rng, seeds, 100, of_seeds), 0.0)
    assert found == pytest.approx(0.95, abs=0.02)


def test_intervals_of_losses_cover_too() -> None:
    found = coverage(lambda rng: rng.normal(3.0, 0.2, (5, 1)), 3.0)
    assert found == pytest.approx(0.95, abs=0.02)


def test_the_bootstrap_covers_with_many_seeds() -> None:
    found = bootstrap_coverage(lambda rng: scores(rng, 30, 60, 0.5, 1.0), 0.5)
    assert found == pytest.approx(0.95, abs=0.02)


def test_control_the_bootstrap_of_five_seeds_does_not_cover() -> None:
    assert bootstrap_coverage(lambda rng: rng.normal(3.0, 0.2, (5, 1)), 3.0) < 0.9


def test_control_seeds_taken_for_more_items_do_not_cover() -> None:
    """One row of all answers: seeds that differ are no independent items."""
    assert coverage(lambda rng: scores(rng, 5, 60, 1.0, 0.3).reshape(1, -1), 0.5) < 0.8


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(7)
    found = np.array([estimate(two_arms(rng, 6, 60, 0.3), resamples=0).p for _ in range(1000)])
    for level in (0.05, 0.25, 0.5):
        assert np.mean(found <= level) == pytest.approx(level, abs=0.04)


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(3)
    better = np.maximum(scores(rng, 5, 200, 0.2, 0.5), scores(rng, 5, 200, 0.2, 0.5))
    found = estimate(better - scores(rng, 5, 200, 0.2, 0.5))
    assert found.low > 0
    assert found.p < 0.01
    assert found.bootstrap[0] > 0


@pytest.mark.parametrize(
    ("t", "degrees", "p"),  # 2 * scipy.stats.t.sf
    [(2.7764451052, 4, 0.0499999999999), (0.5, 1, 0.7048327646991), (1.0, 2.5, 0.4040610272783),
     (4.0, 30, 3.8184563608376e-4), (12.0, 9, 7.699886222986e-7), (0.0, 3, 1.0)],
)  # fmt: skip
def test_students_t(t: float, degrees: float, p: float) -> None:
    assert t_two_sided(t, degrees) == pytest.approx(p, rel=1e-9)
    if t:
        assert t_quantile(1 - t_two_sided(t, degrees), degrees) == pytest.approx(t, rel=1e-6)


def test_signs_are_those_of_scipy() -> None:
    assert sign_flip_p(DIFFERENCES) == pytest.approx(0.046875)  # permutation_test, samples
    assert sign_flip_p([1, 1, 1, 1, 1]) == pytest.approx(2 / 2**5)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    many = np.random.default_rng(0).normal(0.2, 1, 40)
    assert sign_flip_p(many) == pytest.approx(sign_flip_p(many, seed=1), abs=0.02)


def test_scipy_says_the_same() -> None:
    from scipy import stats

    def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean(values, axis=axis)

    asked = stats.permutation_test(
        (DIFFERENCES,), mean, permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(DIFFERENCES) == pytest.approx(asked.pvalue)
    values = np.random.default_rng(2).normal(1.0, 4.0, 60)
    interval = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    plain = stats.bootstrap(
        (values,), mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    for found in (estimate(values[:, None], resamples=20_000), estimate(values[None, :])):
        assert [found.low, found.high] == pytest.approx(interval)
        assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        assert list(found.bootstrap) == pytest.approx([plain.low, plain.high], abs=0.1)
    for t, degrees in ((0.3, 1.5), (2.2, 4), (5.0, 7.7), (3.0, 400)):
        assert t_two_sided(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), rel=1e-9)


def test_the_same_scores_give_the_same_interval() -> None:
    values = scores(np.random.default_rng(1), 4, 50, 0.5, 1)
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert (resampled_means(values, 50, 3) != resampled_means(values, 50, 4)).any()


def test_what_does_not_vary_has_no_width() -> None:
    found = estimate(np.ones((5, 20)))
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert estimate(np.zeros((5, 20))).p == 1.0
    with pytest.raises(ValueError, match="found the shape"):
        estimate(np.zeros((0, 3)))


def test_draws_are_with_replacement() -> None:
    counts = draw(np.random.default_rng(0), 2000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.12)
    assert len(resampled_means(np.eye(4), 1700, 0)) == 1700
    assert standard_error(np.zeros((3, 4))) == (0.0, 0.0)


def test_a_ratio_and_its_bounds() -> None:
    rng = np.random.default_rng(9)
    below = rng.normal(2.0, 0.2, (6, 1))
    above = 0.6 * below + rng.normal(0, 0.05, (6, 1))
    found = ratio(above, below)
    assert found.value == pytest.approx(0.6, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.6 < found.high
    assert found.high - found.low < 0.2
    unclear = ratio(above, rng.normal(0.0, 1.0, (6, 1)))
    assert (unclear.low, unclear.high) == (None, None)


def test_the_papers_net_gains() -> None:
    found = net_gain(
        sft=PUBLISHED["Base1-SFT"],
        cpt=PUBLISHED["Base2-1%SFT"],
        control=PUBLISHED["Base1-1%SFT"],
    )
    assert round(found.sft, 2) == 11.89
    assert round(found.cpt, 2) == 19.81
    assert round(found.share, 3) == 0.600
    assert round(PUBLISHED["Base2"] - PUBLISHED["Base1"], 2) == 20.39
    with pytest.raises(ZeroDivisionError):
        net_gain(sft=2.0, cpt=1.0, control=1.0)
