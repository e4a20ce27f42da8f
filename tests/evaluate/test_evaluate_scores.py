"""Scores: Wilson intervals against published values, groups that add up."""

import math

import pytest

from megatron_math.base.proportions import wilson_interval
from megatron_math.evaluate.scores import count, count_groups

# Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29.
PUBLISHED = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("correct", "n", "low", "high"), PUBLISHED)
def test_wilson_interval_equals_published_values(
    correct: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_covers_as_often_as_it_says() -> None:
    """Exact coverage for n = 50, averaged over shares from 5 % to 95 %."""
    n, coverage = 50, []
    for percent in range(5, 96):
        share, covered = percent / 100, 0.0
        for correct in range(n + 1):
            low, high = wilson_interval(correct, n)
            if low <= share <= high:
                covered += math.comb(n, correct) * share**correct * (1 - share) ** (n - correct)
        coverage.append(covered)
    assert sum(coverage) / len(coverage) == pytest.approx(0.95, abs=0.01)


def test_groups_add_up_and_name_what_is_missing() -> None:
    both = "level, operands_seen"
    metas = [
        {"level": "1", both: "1, true", "topic": "sums, products"},
        {"level": "1", both: "1, false", "topic": "sums, products"},
        {"level": "2", both: "2, true", "topic": "sums"},
        {"level": "2", "topic": "sums"},
    ]
    rows = [{"correct": i % 2 == 0, "meta": meta} for i, meta in enumerate(metas)]
    groups = count_groups(rows)
    assert {name: (group["correct"], group["n"]) for name, group in groups.items()} == {
        "level=1": (1, 2),
        "level=2": (1, 2),
        "level=1, operands_seen=false": (0, 1),
        "level=1, operands_seen=true": (1, 1),
        "level=2, operands_seen=true": (1, 1),
        "level, operands_seen=missing": (0, 1),
        "topic=sums": (1, 2),
        "topic=sums, products": (1, 2),
    }
    assert count(rows)["accuracy"] == 0.5
