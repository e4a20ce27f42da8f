"""Typed door to csrc/row_search.cpp: rows of benchmarks looked for in many texts at once.

A rule splits rows and texts into words in one way and has seeds: runs of words of a row. A text is
compared with a row where it holds one of its seeds; no hash decides anything. The readable twin is
`reference_row_search`.
"""

import os
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]
from megatron_math.native.words import Splitting, splitter

ByteArray = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
SHORT_SEED_WORDS = 3


class Need(IntEnum):
    """What a text must have of a row."""

    SEED = 0
    """A run of `seed_words` of its words."""
    SHARE = 1
    """A seed, and more than `share` of the row's words in the row's order around it."""
    WHOLE = 2
    """All its words in a run."""


class SearchRule(NamedTuple):
    """How rows are looked for.

    Rows of fewer than `seed_words` words are looked for whole, down to `least_words` (which is
    SHORT_SEED_WORDS at least, unless it is `seed_words`); below, if `whole_texts`, they are found
    where they are all of a text. With SHARE a seed has two different words of letters, if the row
    has any such, and the words around it are those from where the row
    would begin to where it would end, and one to two times max(4, row's words // 8) words more on
    either side.
    """

    splitting: Splitting
    seed_words: int
    least_words: int
    need: Need
    share: float = 0.0
    whole_texts: bool = False


class Searched(IntEnum):
    """How a row is looked for."""

    NO_WORDS = 0
    YES = 1
    TOO_SHORT = 2
    AS_WHOLE_TEXT = 3
    NO_NUMBERS = 4
    """Splitting.NUMBERS, and there are none in the row."""


class RowHit(NamedTuple):
    """Of a text, a rule and a row the best hit: most words, then the first one.

    words: of the row, found in order; row_words: all of the row's. begin, end: bytes of the text
    that hold them, row_begin, row_end: of the row.
    """

    text: int
    rule: int
    row: int
    words: int
    row_words: int
    begin: int
    end: int
    row_begin: int
    row_end: int


def flatten(texts: Sequence[bytes]) -> tuple[ByteArray, Int64Array]:
    """Texts as one buffer, and where each begins in it, and the end."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class RowSearcher:
    """rules: looked for side by side; each has rows of its own, numbered from 0.

    Raises ValueError for a rule that cannot be.
    """

    def __init__(self, rules: Sequence[SearchRule]) -> None:
        chunks = any(rule.splitting == Splitting.CHUNKS for rule in rules)
        self._native = _native.RowSearcher(
            splitter(chunks=chunks), [(int(r[0]), r[1], r[2], int(r[3]), *r[4:]) for r in rules]
        )

    def add_rows(self, rule: int, rows: Sequence[bytes]) -> list[Searched]:
        """Before `build`. How each of the rows is looked for under that rule."""
        return [Searched(said) for said in self._native.add_rows(rule, *flatten(rows))]

    def build(self) -> None:
        self._native.build()

    def search(self, texts: Sequence[bytes], *, num_threads: int | None = None) -> list[RowHit]:
        """All hits, by text, rule and row; the same for any number of threads."""
        hits = self.search_flat(*flatten(texts), num_threads=num_threads or num_cores())
        return [RowHit(*hit) for hit in hits.tolist()]

    def search_flat(
        self, text: ByteArray, offsets: Int64Array, *, num_threads: int = 1
    ) -> Int64Array:
        """The same of texts in one buffer: int64[hits, 9], the fields of RowHit."""
        return self._native.search(text, offsets, num_threads)
