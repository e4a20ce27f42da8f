"""Typed door to csrc/index_reader.h: what an `.idx` says, checked before any of it is used.

The readable twin is `reference_index_reader`. What is wrong raises ValueError with a message that
goes behind the file's name.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

Int64Array = npt.NDArray[np.int64]

HEADER_BYTES = 34
# Codes of megatron.core.datasets.indexed_dataset.DType that can hold token ids.
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


class IndexFacts(NamedTuple):
    """Counts of an `.idx`, and the bytes of it at which its sections begin.

    lengths int32 [num_documents], pointers int64 [num_documents] (bytes of the .bin), boundaries
    int64 [num_boundaries], modes int8 [num_documents] or None. No section is aligned.
    """

    dtype: np.dtype
    num_documents: int
    num_boundaries: int
    lengths_at: int
    pointers_at: int
    boundaries_at: int
    modes_at: int | None


def parse_index_header(header: bytes, idx_bytes: int, bin_bytes: int) -> IndexFacts:
    """Facts of an index whose `.idx` begins with `header`, by its and its .bin's size in bytes.

    header: the first HEADER_BYTES bytes (fewer where there are no more).
    """
    code, documents, boundaries, lengths_at, pointers_at, boundaries_at, modes_at = (
        _native.parse_index_header(header, idx_bytes, bin_bytes)
    )
    return IndexFacts(
        np.dtype(DTYPES[code]),
        documents,
        boundaries,
        lengths_at,
        pointers_at,
        boundaries_at,
        None if modes_at < 0 else modes_at,
    )


def check_index(
    lengths: npt.NDArray[np.int32],
    pointers: npt.NDArray[np.int64],
    item_bytes: int,
    bin_bytes: int,
    *,
    first: int = 0,
    begin: int = 0,
) -> tuple[int, int]:
    """(byte of the .bin behind the last of these documents, how many of them are empty).

    Each document must begin where the one before it ends and end inside the .bin's `bin_bytes`.
    For an index that is read part by part, `first` is the number of the part's first document and
    `begin` the byte at which the part before it ended. Of the last part, the end must be
    bin_bytes: that is the caller's to compare.
    """
    return _native.check_index(lengths, pointers, item_bytes, bin_bytes, first, begin)


def bin_pieces(pointers: Int64Array, item_bytes: int, pieces_P5: Int64Array) -> Int64Array:
    """[P, 3]: first id among all of the .bin's, ids, slots of padding behind them.

    pieces_P5: rows of `stream.Piece`'s fields. IndexError for a document that is not there.
    """
    return _native.bin_pieces(pointers, item_bytes, pieces_P5)
