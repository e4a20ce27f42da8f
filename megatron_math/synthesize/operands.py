"""Which numbers meet in a problem, and which pairs of numbers training never sees together.

A pair is unordered. It meets where both numbers stand in one problem text, or on one side of one
arithmetic statement of its solution, whatever the operation: `3 + 5` and `5 * 3` both count.
"""

import functools
import itertools
import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from megatron_math.synthesize.exact import numbers_in, statements
from megatron_math.synthesize.problem import Family

Pair = tuple[int, int]
# Pairs of level 1 are few, so they are chosen family by family; larger ones by a hash.
SMALL = 20


def pairs_of(numbers: Iterable[int]) -> set[Pair]:
    """All unordered pairs; a number meets itself only if it stands there twice."""
    return {(min(a, b), max(a, b)) for a, b in itertools.combinations(numbers, 2)}


def pairs_in(problem: str, solution: str) -> set[Pair]:
    """Every pair that meets in a problem's text or in its solution's statements."""
    pairs = pairs_of(numbers_in(problem))
    for chain in statements(solution):
        for side in chain:
            pairs |= pairs_of(numbers_in(side))
    return pairs


@dataclass(frozen=True)
class HeldOutPairs:
    """The pairs that are kept from training; depends on the seed alone."""

    seed: int
    share: float
    small: frozenset[Pair] = field(default_factory=frozenset)

    def __contains__(self, pair: Pair) -> bool:
        if pair[1] <= SMALL:
            return pair in self.small
        return _hashed_share(f"{self.seed}/{pair[0]}/{pair[1]}") < self.share


@functools.lru_cache(maxsize=1 << 17)
def _hashed_share(key: str) -> float:
    return zlib.crc32(key.encode()) / 2**32


def choose_pairs(families: Iterable[Family], seed: int, share: float) -> HeldOutPairs:
    """Hold out `share` of the pairs of every family that lists its operands, at least one each."""
    chosen: set[Pair] = set()
    for family in families:
        if family.space is None:
            continue
        pairs = {pair for operands in family.space() for pair in pairs_of(operands)}
        wanted = max(1, round(share * len(pairs))) - len(pairs & chosen)
        if wanted > 0:
            rng = random.Random(f"{seed}/pairs/{family.name}")
            chosen |= set(rng.sample(sorted(pairs - chosen), wanted))
    return HeldOutPairs(seed, share, frozenset(chosen))
