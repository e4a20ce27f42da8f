"""From shares and caps to exact token targets: who should have given how much, at every token.

A mix is thought of as a fluid: every source flows at its effective share. When a source reaches
its cap, its share goes to its siblings in the same mapping, and when a whole group has ended, to
the group's siblings. The targets bend there. Bends are put on whole tokens and the targets rounded
there (largest remainder), so that all is exact in integers; each bend moves a source by less than
two tokens: one for its own rounding, one for that of the bend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from megatron_math.base.errors import UserError
from megatron_math.blend.config import Group, Leaf

MAX_DENOMINATOR = 1 << 62  # what csrc/blend_order.h computes with exactly


@dataclass(frozen=True)
class Bend:
    """At `tokens` of the stage, `ended` sources stop; `shares` hold from there on, by source."""

    tokens: int
    ended: tuple[int, ...]
    shares: tuple[Fraction, ...]


@dataclass(frozen=True)
class Targets:
    """`native.order.blend_order`'s starts, bases and shares, and what they mean to a reader.

    total_tokens: where the mix ends because every source has ended; None when it does not.
    """

    starts: list[int]
    bases: list[list[int]]
    shares: list[int]
    bends: list[Bend]
    total_tokens: int | None


def effective_shares(mix: Group, alive: Sequence[bool]) -> list[Fraction]:
    """Each leaf's part of the whole, with ended leaves' parts given to their siblings."""
    shares: list[Fraction] = []

    def num_alive(part: Group | Leaf, first: int) -> int:
        size = len(list(part.leaves())) if isinstance(part, Group) else 1
        return sum(alive[first : first + size])

    def spread(group: Group, amount: Fraction) -> None:
        first, living = len(shares), []
        for part in group.parts:
            living.append(num_alive(part, first) > 0)
            first += len(list(part.leaves())) if isinstance(part, Group) else 1
        weights = [
            (part.share if isinstance(part, Group) else part.amount) * live
            for part, live in zip(group.parts, living, strict=True)
        ]
        total = sum(weights) or Fraction(1)
        for part, weight in zip(group.parts, weights, strict=True):
            if isinstance(part, Group):
                spread(part, amount * weight / total)
            else:
                shares.append(amount * weight / total)

    spread(mix, Fraction(1))
    return shares


def share_targets(mix: Group, caps: Sequence[int | None]) -> Targets:
    """Targets of a mix of shares; caps: tokens after which a source ends, None for no end.

    UserError when the shares have no common denominator below 2^62.
    """
    alive = [True] * len(caps)
    now, given = 0, [0] * len(caps)
    starts, bases = [0], [list(given)]
    shares = effective_shares(mix, alive)
    bends = [Bend(0, (), tuple(shares))]
    while (step := _next_end(given, shares, caps, alive)) is not None:
        now, given = _round_step(now, given, shares, caps, alive, step)
        ended = tuple(j for j, cap in enumerate(caps) if alive[j] and given[j] == cap)
        for j in ended:
            alive[j] = False
        starts.append(now)
        bases.append(list(given))
        shares = effective_shares(mix, alive)
        bends.append(Bend(now, ended, tuple(shares)))
    if not any(alive):
        return Targets(starts, bases, [0] * len(caps), bends, now)
    return Targets(starts, bases, _whole_numbers(shares), bends, None)


def quota_targets(totals: Sequence[int]) -> Targets:
    """Targets of a mix of quotas: all flow in proportion to their totals and end together."""
    total = sum(totals)
    shares = tuple(Fraction(tokens, total) for tokens in totals)
    zeros = [0] * len(totals)
    bends = [
        Bend(0, (), shares),
        Bend(total, tuple(range(len(totals))), tuple(Fraction(0) for _ in totals)),
    ]
    return Targets([0, total], [zeros, list(totals)], zeros, bends, total)


def _next_end(
    given: list[int], shares: list[Fraction], caps: Sequence[int | None], alive: list[bool]
) -> Fraction | None:
    """Tokens of the mix until the next living source reaches its cap."""
    steps = [
        (cap - given[j]) / shares[j] for j, cap in enumerate(caps) if alive[j] and cap is not None
    ]
    return min(steps, default=None)


def _round_step(
    now: int,
    given: list[int],
    shares: list[Fraction],
    caps: Sequence[int | None],
    alive: list[bool],
    step: Fraction,
) -> tuple[int, list[int]]:
    """The mix and its sources after `step` more tokens, on whole tokens, caps met exactly."""
    ideal = [tokens + share * step for tokens, share in zip(given, shares, strict=True)]
    rounded = [math.floor(tokens) for tokens in ideal]
    end = math.ceil(now + step)
    growing = [j for j in range(len(given)) if alive[j] and ideal[j] != caps[j]]
    growing.sort(key=lambda j: rounded[j] - ideal[j])  # the largest remainder first
    for j in growing[: end - sum(rounded)]:
        rounded[j] += 1
    assert sum(rounded) == end
    return end, rounded


def _whole_numbers(shares: Sequence[Fraction]) -> list[int]:
    denominator = math.lcm(*(share.denominator for share in shares))
    if denominator > MAX_DENOMINATOR:
        raise UserError(
            f"the mix's shares have no common denominator below 2^62 (found {denominator}); "
            f"round them, 4 digits are plenty"
        )
    return [int(share * denominator) for share in shares]
