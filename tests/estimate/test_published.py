"""Estimates against what others published: the promise of the table, kept by every change."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench" / "estimate"))
from published import DATA, FITTED, Shares, fit, rows, shipped

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "estimate.md"


def within(shares: Shares, kind: str = "rows", limit: float = 0.2) -> int:
    return sum(abs(row.error(shares)) <= limit for row in rows(kind))


def test_tokens_per_second_within_20_percent() -> None:
    assert within(shipped()) >= 10  # the promise
    assert within(shipped()) >= len(rows()) - 2  # what is reached
    assert within(shipped(), "held_out") >= 0.9 * len(rows("held_out"))


def test_a_constant_that_is_off_is_seen() -> None:
    worse = {constant: 0.6 * share for constant, share in shipped().items()}
    assert within(worse) < 10


def test_the_shipped_shares_are_the_fit() -> None:
    assert fit(rows(), shipped()) == pytest.approx(shipped(), abs=0.006)


def test_constants_are_by_architecture_and_precision_only() -> None:
    assert len(FITTED) < len(rows()) / 5
    rates = {(row.gpu.architecture, row.layout.precision): set[float]() for row in rows()}
    for row in rows():
        rates[row.constant].add(row.gpu.reached.matmul[row.layout.precision])
    assert all(len(found) == 1 for found in rates.values())


def test_experts_and_adapters_within_20_percent() -> None:
    """Without a constant of their own; long context over many ranks is off, of dense models too."""
    assert within(shipped(), "adapters") == len(rows("adapters"))
    near = [row for row in rows("experts") if row.layout.context == 1]
    assert len(near) >= 3
    assert all(abs(row.error(shipped())) <= 0.2 for row in near)


@pytest.mark.parametrize("kind", ["rows", "held_out"])
def test_memory_within_10_percent(kind: str) -> None:
    for row in rows(kind):
        if row.memory_gib is None or row.layout.tensor > 1:  # 70B over TP 8: shown on the page
            continue
        found = row.memory().allocated / 1024**3
        assert found == pytest.approx(row.memory_gib, rel=0.1), row.what


def test_every_row_is_on_the_page_with_its_error() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind in ("rows", "held_out", "experts", "adapters"):
        for row in rows(kind):
            error = re.escape(f"{row.error(shipped()):+.1%}")
            tokens = re.escape(f"{row.tokens_per_second:,.0f}")
            line = rf"\| {re.escape(row.what)} \|.*\| {tokens} \|.*{error}"
            assert re.search(line, page), f"{row.what} {tokens} {error}: make bench-estimate"
    for entry in DATA["not_estimated"]:
        assert entry["figure"] in page
