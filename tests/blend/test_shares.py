"""Targets: shares of shares, caps, and who takes over."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.blend.config import BlendConfig, resolve
from megatron_math.blend.shares import effective_shares, quota_targets, share_targets

F = Fraction


def mix_of(mix):
    blend = {"sequence_length": 8, "tokens": 9, "mix": mix}
    return resolve(parse_section(BlendConfig, blend, "blend"))[0].mix


JIUZHANG = {  # 4:6 general to mathematics, 6:4 and 3:7 inside
    "general": {"share": 4, "of": {"web": {"share": 6}, "code": {"share": 4}}},
    "math": {"share": 6, "of": {"webmath": {"share": 3}, "problems": {"share": 7}}},
}


def test_nested_shares_multiply():
    assert effective_shares(mix_of(JIUZHANG), [True] * 4) == [
        F(24, 100), F(16, 100), F(18, 100), F(42, 100)
    ]  # fmt: skip


def test_an_ended_source_gives_its_share_to_its_siblings_only():
    shares = effective_shares(mix_of(JIUZHANG), [True, True, True, False])
    assert shares == [F(24, 100), F(16, 100), F(60, 100), 0]


def test_an_ended_group_gives_its_share_to_its_own_siblings():
    assert effective_shares(mix_of(JIUZHANG), [True, True, False, False]) == [
        F(6, 10), F(4, 10), 0, 0
    ]  # fmt: skip


def test_bends_are_where_the_arithmetic_says():
    """problems: 42 tokens at 42 % end at 100; webmath: 18 + 60 % to 48 tokens ends at 150."""
    targets = share_targets(mix_of(JIUZHANG), [None, None, 48, 42])
    assert targets.starts == [0, 100, 150]
    assert targets.bases == [[0, 0, 0, 0], [24, 16, 18, 42], [36, 24, 48, 42]]
    assert [bend.ended for bend in targets.bends] == [(), (3,), (2,)]
    assert targets.shares == [3, 2, 0, 0]
    assert targets.total_tokens is None


def test_when_all_end_the_mix_ends():
    targets = share_targets(mix_of(JIUZHANG), [10, 10, 10, 10])
    assert targets.total_tokens == 40
    assert targets.bases[-1] == [10] * 4
    assert targets.shares == [0] * 4


@given(
    shares=st.lists(st.integers(1, 1000), min_size=2, max_size=6),
    caps=st.lists(st.one_of(st.none(), st.integers(1, 10**12)), min_size=6, max_size=6),
)
@example(shares=[1, 1, 1, 25, 177], caps=[None] * 4 + [97_281, None])  # 15/14 of a token
@settings(max_examples=200, deadline=None)
def test_rounded_targets_follow_the_ideal_fluid(shares, caps):
    """An exact fluid, in fractions and without rounding, stays within two tokens a bend."""
    caps = caps[: len(shares)]
    targets = share_targets(mix_of({f"s{j}": {"share": s} for j, s in enumerate(shares)}), caps)
    exact, alive, now = [F(0)] * len(shares), [True] * len(shares), F(0)
    for start, base in zip(targets.starts, targets.bases, strict=True):
        while now < start:
            living = sum(s for s, a in zip(shares, alive, strict=True) if a)
            rates = [F(s * a, living) for s, a in zip(shares, alive, strict=True)]
            steps = [(caps[j] - exact[j]) / rates[j] for j, a in enumerate(alive) if a and caps[j]]
            step = min([start - now, *steps])
            exact = [tokens + rate * step for tokens, rate in zip(exact, rates, strict=True)]
            alive = [a and exact[j] != caps[j] for j, a in enumerate(alive)]
            now += step
        for found, ideal in zip(base, exact, strict=True):
            assert abs(found - ideal) <= 2 * (len(targets.starts) - 1)


def test_quotas_flow_together():
    targets = quota_targets([30, 10])
    assert (targets.starts, targets.bases, targets.shares) == ([0, 40], [[0, 0], [30, 10]], [0, 0])
    assert targets.total_tokens == 40


def test_shares_too_fine_for_exact_arithmetic_are_refused():
    fine = {f"s{j}": {"share": 1 + 1 / (7919 + 2 * j)} for j in range(12)}
    nested = {"g": {"share": 0.123456789, "of": fine}, "h": {"share": 0.987654321}}
    with pytest.raises(UserError, match="no common denominator"):
        share_targets(mix_of(nested), [None] * 13)
