"""Differences of scores, ticks and written numbers, against values worked out by hand."""

import pytest

from megatron_math.report.figures import count, duration, figure, large, points, ticks
from megatron_math.report.scores import gain


def score(accuracy: float, low: float, high: float) -> dict[str, object]:
    return {"accuracy": accuracy, "interval95": [low, high]}


def test_gain_agrees_with_newcombe() -> None:
    """56/70 against 48/80: Newcombe's (1998) own example, method 10: 0.0524 to 0.3339."""
    before, after = score(48 / 80, 0.4904, 0.7004), score(56 / 70, 0.6918, 0.8769)
    found = gain(before, after)
    assert found is not None
    assert found["difference"] == pytest.approx(0.2)
    assert found["interval95"] == pytest.approx([0.0524, 0.3339], abs=5e-4)
    assert found["verdict"] == "up"


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (score(0.5, 0.45, 0.55), score(0.52, 0.47, 0.57), "unclear"),
        (score(0.5, 0.45, 0.55), score(0.3, 0.26, 0.34), "down"),
        (score(0.0, 0.0, 0.01), score(0.0, 0.0, 0.01), "unclear"),
    ],
)
def test_verdicts(before: dict, after: dict, verdict: str) -> None:
    found = gain(before, after)
    assert found is not None
    assert found["verdict"] == verdict


def test_no_gain_without_both_sides() -> None:
    assert gain(None, score(0.5, 0.4, 0.6)) is None
    assert gain(score(0.5, 0.4, 0.6), None) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 4.4e6, [0, 2e6, 4e6]), (1.9, 3.1, [2, 2.5, 3]), (5, 5, [5])],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, wanted=3) == pytest.approx(expected)


def test_written_numbers() -> None:
    assert count(1_319) == "1\u202f319"
    assert large(999_600) == "1\u202fM"
    assert large(3_072_000) == "3.07\u202fM"
    assert points(-0.0312) == "−3.1"
    assert duration(3_725.2) == "1\u202fh 2\u202fmin"
    assert duration(0.44) == "0.4\u202fs"
    assert "missing" in figure(None, "percent")
    assert ">0<" in figure(0, "count")
