"""Typed door to csrc/json_lines.cpp: lines of JSON in, flat columns of UTF-8 out.

A line is taken where json.loads would take it (NaN and Infinity included, the last of several
equal keys wins), with three differences: only objects are rows, brackets nest 128 deep at most, and
integers may have any number of digits. The readable twin is `reference_json_lines`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]


class Kind(IntEnum):
    """What a row has under a key."""

    ABSENT = 0
    STRING = 1
    NUL_STRING = 2
    """A string that holds U+0000."""
    HALF_PAIR = 3
    """A string with half a surrogate pair, which UTF-8 cannot hold: its bytes are left out."""
    NULL = 4
    BOOL = 5
    NUMBER = 6
    ARRAY = 7
    OBJECT = 8


@dataclass(frozen=True)
class Column:
    """One key's value in every row, one after another.

    text: uint8; strings unescaped, ABSENT, HALF_PAIR and NULL without bytes, other kinds as the
    JSON that was there. offsets: int64[rows + 1], where each value begins. kinds: uint8[rows], see
    `Kind`.
    """

    text: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Whether each row has a string here."""
        return self.kinds == Kind.STRING

    def value(self, row: int) -> bytes:
        return self.text[self.offsets[row] : self.offsets[row + 1]].tobytes()


class BadLine(NamedTuple):
    """A line that is no row. line: its number from 0; byte: where it begins; num_bytes: its own,
    without the line's end. What stands before a colon in `reason` names the kind of fault."""

    line: int
    byte: int
    num_bytes: int
    reason: str


@dataclass(frozen=True)
class Scanned:
    """The rows of a block: num_lines = len(rows) + num_blank + len(bad).

    rows: int64[n], the line number of each row, from 0. spans: int64[n, 2], its first byte in the
    block and its bytes without the line's end. columns: by key. ids: the member "id" where it is a
    string, or a number as it is spelled; any other kind has no bytes.
    """

    num_lines: int
    num_blank: int
    rows: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    columns: dict[str, Column]
    ids: Column
    bad: list[BadLine]


def scan_lines(
    block: bytes | bytearray | memoryview | npt.NDArray[np.uint8], keys: Sequence[str]
) -> Scanned:
    r"""Every line of `block`, split at \n; the last one may lack it.

    block: contiguous bytes; nothing else of it is copied than the values of `keys` and "id". The
    interpreter lock is released. Reasons of bad lines: "not JSON: ...", "not an object", "invalid
    UTF-8", "byte order mark", "nested deeper than 128", "half a surrogate pair" (in the id).
    Raises ValueError for a key given twice.
    """
    num_lines, num_blank, rows, spans, columns, bad = _native.scan_lines(block, list(keys))
    *values, ids = (Column(*column) for column in columns)
    return Scanned(
        num_lines=num_lines,
        num_blank=num_blank,
        rows=rows,
        spans=spans,
        columns=dict(zip(keys, values, strict=True)),
        ids=ids,
        bad=[BadLine(*line) for line in bad],
    )
