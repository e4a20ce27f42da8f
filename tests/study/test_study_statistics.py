"""Intervals that cover as often as they say, p values that SciPy gives, and controls that fail.

Golden values are SciPy 1.16.3's; where SciPy is installed it is asked again.
"""

from typing import Any

import numpy as np
import pytest

from megatron_math.study.net_gain import PUBLISHED, net_gain
from megatron_math.study.statistics import (
    draw,
    estimate,
    ratio,
    sign_flip_p,
    studentized,
)

SIMULATIONS = 1000
DIFFERENCES = [0.8, -0.3, 1.1, 0.6, 0.2, 1.4, -0.1, 0.9]


def scores(
    rng: np.random.Generator, seeds: int, items: int, of_seeds: float, of_items: float
) -> np.ndarray:
    """Right or wrong, one half of them right on average over seeds and items."""
    ease = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_items, (1, items))
    return (rng.random((seeds, items)) < 1 / (1 + np.exp(-ease))).astype(float)


def coverage(draw_scores: Any, truth: float, resamples: int = 400) -> float:
    rng = np.random.default_rng(5)
    held = 0
    for number in range(SIMULATIONS):
        found = estimate(draw_scores(rng), resamples=resamples, seed=number)
        held += found.low <= truth <= found.high
    return held / SIMULATIONS


@pytest.mark.parametrize(
    ("seeds", "items", "of_seeds", "of_items"),
    [(5, 60, 0.5, 1.0), (5, 60, 0.0, 1.0), (8, 60, 1.0, 0.3), (1, 80, 0.0, 0.0)],
)
def test_intervals_of_scores_cover_as_often_as_they_say(
    seeds: int, items: int, of_seeds: float, of_items: float
) -> None:
    found = coverage(lambda rng: scores(rng, seeds, items, of_seeds, of_items), 0.5)
    assert found == pytest.approx(0.95, abs=0.02)


def test_intervals_of_paired_differences_cover_too() -> None:
    def difference(rng: np.random.Generator) -> np.ndarray:
        ease = rng.normal(0, 0.5, (2, 6, 1)) + rng.normal(0, 1, (1, 1, 60))
        chance = 1 / (1 + np.exp(-ease))
        first, second = (rng.random((2, 6, 60)) < chance).astype(float)
        return first - second

    assert coverage(difference, 0.0) == pytest.approx(0.95, abs=0.02)


def test_intervals_of_losses_cover_too() -> None:
    found = coverage(lambda rng: rng.normal(3.0, 0.2, (6, 1)), 3.0, resamples=1000)
    assert found == pytest.approx(0.95, abs=0.02)


def test_control_percentiles_of_five_seeds_do_not_cover() -> None:
    """The usual percentile bootstrap: what the standard errors are there for."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(SIMULATIONS):
        values = rng.normal(3.0, 0.2, 5)
        means = draw(rng, 400, 5) @ values / 5
        low, high = np.quantile(means, [0.025, 0.975])
        held += low <= 3.0 <= high
    assert held / SIMULATIONS < 0.9


def test_control_seeds_taken_for_more_items_do_not_cover() -> None:
    """One row of all answers: seeds that differ are no independent items."""
    found = coverage(lambda rng: scores(rng, 5, 60, 1.0, 0.3).reshape(1, -1), 0.5)
    assert found < 0.8


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(7)
    found = [
        estimate(
            scores(rng, 6, 40, 0.3, 1) - scores(rng, 6, 40, 0.3, 1), resamples=200, seed=number
        ).p
        for number in range(400)
    ]
    for level in (0.05, 0.25, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.06)


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(3)
    better = scores(rng, 5, 200, 0.2, 0.5) * 0.5 + 0.5
    found = estimate(better - scores(rng, 5, 200, 0.2, 0.5), resamples=2000)
    assert found.low > 0
    assert found.p < 0.01


def test_signs_are_those_of_scipy() -> None:
    assert sign_flip_p(DIFFERENCES) == pytest.approx(0.0390625)  # permutation_test, samples
    assert sign_flip_p([1, 1, 1, 1, 1]) == pytest.approx(2 / 2**5)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    many = np.random.default_rng(0).normal(0.2, 1, 40)
    assert sign_flip_p(many) == pytest.approx(sign_flip_p(many, seed=1), abs=0.02)


def test_scipy_says_the_same() -> None:
    stats = pytest.importorskip("scipy.stats")

    def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean(values, axis=axis)

    asked = stats.permutation_test(
        (DIFFERENCES,), mean, permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(DIFFERENCES) == pytest.approx(asked.pvalue)
    rng = np.random.default_rng(2)
    values = rng.normal(1.0, 2.0, 60)
    ours = estimate(values[:, None], resamples=20_000)
    theirs = stats.bootstrap((values,), mean, n_resamples=20_000, method="BCa", random_state=1)
    interval = theirs.confidence_interval
    assert [ours.low, ours.high] == pytest.approx([interval.low, interval.high], abs=0.06)
    assert ours.standard_error == pytest.approx(stats.sem(values))
    assert ours.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    low, high = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert [ours.low, ours.high] == pytest.approx([low, high], abs=0.06)
    means = draw(np.random.default_rng(4), 20_000, 60) @ values / 60
    plain = stats.bootstrap(
        (values,), mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert np.quantile(means, [0.025, 0.975]) == pytest.approx([plain.low, plain.high], abs=0.03)


def test_the_same_scores_give_the_same_interval() -> None:
    values = scores(np.random.default_rng(1), 4, 50, 0.5, 1)
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert estimate(values, seed=3).low != estimate(values, seed=4).low


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
    assert len(studentized(np.eye(4), resamples=700, seed=0)) <= 700


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
