"""Near-duplicates: texts whose runs of words are nearly the same set.

Candidates are texts that agree in a band of their MinHash signatures; every candidate pair is then
compared by the Jaccard index of the sets themselves. What is linked by pairs at or above the
threshold is one cluster, of which one record stays: of the earliest source, there the one with most
words, then the one with the smallest digest of its words. So neither the order of files nor that
of records decides which texts stay.

Memory: some 90 bytes a record; signatures lie in one file a band and are sorted band by band.
"""

import math
import os
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from megatron_math.curate.config import NearDuplicatesConfig
from megatron_math.native.shingles import ShingleHasher
from megatron_math.native.texts import ByteArray

Int64Array = npt.NDArray[np.int64]

MISSED = 0.0025
"""Share of the pairs exactly at the threshold that may agree in no band."""
MOST_PERMUTATIONS = 288
ROUNDS = 32
"""Of a band's group of texts that agree there: how many are compared with all others."""
PAIRS_AT_A_TIME = 4096
REMEMBERED_PAIRS = 1 << 22


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows of each): the most rows, hence the fewest false candidates, with which a pair at
    the threshold is missed once in 1 / MISSED."""
    best = (math.ceil(math.log(MISSED) / math.log1p(-threshold)), 1) if threshold < 1 else (1, 1)
    for rows in range(1, MOST_PERMUTATIONS + 1):
        agree = threshold**rows
        num_bands = math.ceil(math.log(MISSED) / math.log1p(-agree)) if agree < 1 else 1
        if rows * num_bands > MOST_PERMUTATIONS:
            break
        best = num_bands, rows
    return best


def open_hasher(config: NearDuplicatesConfig) -> ShingleHasher:
    """What makes the signatures and compares the sets."""
    return ShingleHasher(config.shingle_words, *bands_for(config.threshold))


@dataclass(frozen=True)
class Verdicts:
    """survivors: int64[records], the record that stays in the place of each (itself for those that
    stay). jaccard: with the survivor. through: the record of its cluster that each was linked to
    first, link: their Jaccard index."""

    survivors: Int64Array
    jaccard: npt.NDArray[np.float64]
    through: Int64Array
    link: npt.NDArray[np.float64]
    stats: dict[str, Any]


class NearDuplicates:
    """Takes what is known of all records, source by source, then settles which of them go.

    They are numbered from 0 in the order in which they came. texts_of: the texts of some of them,
    by rising number, as (text, offsets). Signatures lie in `folder`.
    """

    def __init__(
        self,
        config: NearDuplicatesConfig,
        folder: Path,
        texts_of: Callable[[Int64Array], tuple[ByteArray, Int64Array]],
    ) -> None:
        self._config, self._folder, self._texts_of = config, folder, texts_of
        self.num_bands, self.band_rows = bands_for(config.threshold)
        self._hasher = open_hasher(config)
        folder.mkdir(parents=True, exist_ok=True)
        self._files = ExitStack()
        self._bands = [self._open(f"band_{i}") for i in range(self.num_bands)]
        self._first: list[int] = []  # number of each source's first record
        self._num_words = array("q")
        self._digests = bytearray()
        self._compared = self._left = 0

    def begin_source(self) -> None:
        self._first.append(len(self._num_words))

    def add(self, digests: ByteArray, bands: npt.NDArray[np.uint64], num_words: Int64Array) -> None:
        """The next records of the source that was begun last: digests of their words, uint8[n, 16],
        and what the hasher says of them."""
        self._digests += digests.tobytes()
        self._num_words.frombytes(num_words.tobytes())
        for one, band in zip(self._bands, bands.T, strict=True):
            one.write(np.ascontiguousarray(band).data)

    def settle(self) -> Verdicts:
        """Compare what agrees in a band; call once, after all records."""
        num_records = len(self._num_words)
        order = self._order()
        rank = np.empty(num_records, np.int64)
        rank[order] = np.arange(num_records)
        clusters = _Clusters(rank)
        ranked = order[np.frombuffer(self._num_words, np.int64)[order] > 0]
        apart = _Pairs()  # known to be below the threshold
        for file in self._bands:
            file.close()
            keys = np.fromfile(file.name, np.uint64)
            self._settle_band(keys, ranked, clusters, apart)
            os.unlink(file.name)
        survivors = clusters.roots(np.arange(num_records))
        dropped = np.flatnonzero(survivors != np.arange(num_records))
        jaccard = np.ones(num_records)
        jaccard[dropped] = self._jaccard(dropped, survivors[dropped])
        stats = {
            "threshold": self._config.threshold,
            "words of a run": self._config.shingle_words,
            "bands": self.num_bands,
            "rows of a band": self.band_rows,
            "pairs compared": self._compared,
            "records not compared with all of their group": self._left,
            "clusters": len(np.unique(survivors[dropped])),
            "dropped": len(dropped),
        }
        return Verdicts(survivors, jaccard, clusters.through, clusters.link, stats)

    def close(self) -> None:
        self._files.close()

    def _open(self, name: str) -> IO[bytes]:
        return self._files.enter_context(open(self._folder / name, "w+b"))

    def _order(self) -> Int64Array:
        """Records from the one that stays first."""
        num_words = np.frombuffer(self._num_words, np.int64)
        digests = np.frombuffer(bytes(self._digests), ">u8").reshape(-1, 2)
        source = np.searchsorted(self._first, np.arange(len(num_words)), side="right")
        return np.lexsort((digests[:, 1], digests[:, 0], -num_words, source))

    def _settle_band(
        self,
        keys: npt.NDArray[np.uint64],
        ranked: Int64Array,
        clusters: "_Clusters",
        apart: "_Pairs",
    ) -> None:
        """Compare the first of every group with the others, then the first of those that stayed
        apart from it, and so on. ranked: records with words, from the one that stays first."""
        groups = keys[ranked]
        order = np.argsort(groups, kind="stable")
        groups, members = groups[order], ranked[order]
        is_same = groups[1:] == groups[:-1]
        in_group = np.append(is_same, False) | np.append(False, is_same)
        groups, members = groups[in_group[: len(groups)]], members[in_group[: len(groups)]]
        for _ in range(ROUNDS):
            begins = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
            sizes = np.diff(np.append(begins, len(groups)))
            leaders = np.repeat(members[begins], sizes) if len(groups) else members
            others = np.flatnonzero(members != leaders)
            if not len(others):
                return
            members, groups, leaders = members[others], groups[others], leaders[others]
            for at in range(0, len(members), PAIRS_AT_A_TIME):
                part = slice(at, at + PAIRS_AT_A_TIME)
                self._link(leaders[part], members[part], clusters, apart)
            is_apart = clusters.roots(members) != clusters.roots(leaders)
            members, groups = members[is_apart], groups[is_apart]
        self._left += len(members)

    def _link(
        self, first: Int64Array, second: Int64Array, clusters: "_Clusters", apart: "_Pairs"
    ) -> None:
        """Join the pairs at or above the threshold, and remember those that are below."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        names = low * len(self._num_words) + high
        new = clusters.roots(first) != clusters.roots(second)
        new &= ~apart.hold(names)
        first, second, names = first[new], second[new], names[new]
        if not len(first):
            return
        index = self._jaccard(first, second)
        self._compared += len(index)
        is_near = index >= self._config.threshold
        for a, b, j in zip(first[is_near], second[is_near], index[is_near], strict=True):
            clusters.join(int(a), int(b), float(j))
        apart.add(names[~is_near])

    def _jaccard(self, first: Int64Array, second: Int64Array) -> npt.NDArray[np.float64]:
        found = np.empty(len(first))
        for at in range(0, len(first), PAIRS_AT_A_TIME):
            part = slice(at, at + PAIRS_AT_A_TIME)
            needed, place = np.unique(np.append(first[part], second[part]), return_inverse=True)
            one, other = np.split(place.astype(np.int64), 2)
            found[part] = self._hasher.jaccard_flat(
                *self._texts_of(needed), one.copy(), other.copy()
            )
        return found


class _Pairs:
    """A set of numbers that grows: sorted runs, each more than twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[Int64Array] = []

    def hold(self, names: Int64Array) -> npt.NDArray[np.bool_]:
        held = np.zeros(len(names), bool)
        for run in self._runs:
            held |= run[np.minimum(np.searchsorted(run, names), len(run) - 1)] == names
        return held

    def add(self, names: Int64Array) -> None:
        """Forgets all others where they become too many."""
        if sum(map(len, self._runs)) > REMEMBERED_PAIRS:
            self._runs = []
        run = np.sort(names)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.append(self._runs.pop(), run))
        if len(run):
            self._runs.append(run)


class _Clusters:
    """Union and find; the root of a cluster is its record of the lowest rank."""

    def __init__(self, rank: Int64Array) -> None:
        self._rank = rank
        self._parent = np.arange(len(rank))
        self.through = np.full(len(rank), -1)
        self.link = np.zeros(len(rank))

    def roots(self, numbers: Int64Array) -> Int64Array:
        found = self._parent[numbers]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[numbers] = found
        return found

    def join(self, first: int, second: int, jaccard: float) -> None:
        for one, other in ((first, second), (second, first)):
            if self.through[one] < 0:
                self.through[one], self.link[one] = other, jaccard
        a, b = (int(root) for root in self.roots(np.array([first, second])))
        if a != b:
            low, high = (a, b) if self._rank[a] < self._rank[b] else (b, a)
            self._parent[high] = low
