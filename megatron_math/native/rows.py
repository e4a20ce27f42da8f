"""Typed doors to csrc/rows.cpp: samples of one corpus as rows of a batch.

The readable twin is `reference_rows.read_rows`. The interpreter lock is released.
"""

from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

Int64Array = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """B samples of S tokens. labels_BS[b, s] is the token after tokens_BS[b, s]; it counts where
    loss_mask_BS is 1. Attention stays inside equal document_ids_BS."""

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]
    loss_mask_BS: npt.NDArray[np.float32]
    document_ids_BS: npt.NDArray[np.int32]
    position_ids_BS: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_rows: int, sequence_length: int) -> Self:
        """Arrays whose contents are not set yet, in the memory of a batch that nobody holds any
        more where there is one of this size."""
        return cls(*_native.empty_rows(num_rows, sequence_length))


def read_rows(
    bin: npt.NDArray[np.integer],
    pieces: Int64Array,
    row_starts: Int64Array,
    sequence_length: int,
    pad_id: int,
    attend_across: bool,
    roles: npt.NDArray[np.uint8] | None = None,
    role_counts: npt.NDArray[np.bool_] | None = None,
    *,
    into: Rows | None = None,
    row_numbers: Int64Array | None = None,
) -> Rows:
    """Lay pieces of a corpus out on S + 1 slots a row, the last of which is only a label.

    bin: the corpus's token ids, flat. pieces [P, 3]: first token in `bin`, tokens, slots of padding
    behind them (padding may pass the row's end, tokens may not); row_starts [B + 1]: where each
    row's pieces begin. Slots that no piece takes are padding with `pad_id`.
    Each run of one piece's tokens, and each run of padding, has a document id of its own, and its
    positions begin at 0. With attend_across all tokens have id 0 and positions count through the
    row. A label counts when it follows a token with its own id and, with `roles` (one byte a token
    of `bin`), when role_counts[256] says so of its role.
    into, row_numbers [B]: write these rows of a larger batch, which is returned.
    Raises ValueError with the numbers for a piece outside `bin` or the row, before anything is
    written.
    """
    into, row_numbers = _target(len(row_starts) - 1, sequence_length, into, row_numbers)
    _native.read_rows(
        bin,
        pieces,
        row_starts,
        pad_id,
        attend_across,
        roles,
        None if role_counts is None else role_counts.view(np.uint8),
        row_numbers,
        *into,
    )
    return into


def read_file_rows(
    file: BinaryIO,
    path: Path,
    dtype: np.dtype,
    num_tokens: int,
    pieces: Int64Array,
    row_starts: Int64Array,
    sequence_length: int,
    pad_id: int,
    attend_across: bool,
    *,
    into: Rows | None = None,
    row_numbers: Int64Array | None = None,
) -> Rows:
    """`read_rows` of a corpus that is a file of `num_tokens` ids, read piece by piece.

    Nothing but the pieces is brought into memory, and a file that fails or ends too early is an
    OSError with `path`; rows may be written in part then.
    """
    into, row_numbers = _target(len(row_starts) - 1, sequence_length, into, row_numbers)
    _native.read_file_rows(
        file.fileno(),
        str(path),
        dtype,
        num_tokens,
        pieces,
        row_starts,
        pad_id,
        attend_across,
        row_numbers,
        *into,
    )
    return into


def _target(
    num_rows: int, sequence_length: int, into: Rows | None, row_numbers: Int64Array | None
) -> tuple[Rows, Int64Array]:
    if into is None:
        into = Rows.empty(num_rows, sequence_length)
    elif into.tokens_BS.shape[1] != sequence_length:
        raise ValueError(f"rows of {sequence_length} into a batch of {into.tokens_BS.shape}")
    if row_numbers is None:
        row_numbers = np.arange(num_rows, dtype=np.int64)
    return into, row_numbers
