"""Typed door to csrc/index_writer.cpp: tokens in, Megatron's `.bin`/`.idx` pair out.

Writes `<prefix>.bin` and `<prefix>.idx`, under `.partial` names until `finish()`. The readable twin
is `reference_index_writer.ReferenceIndexWriter`; the bytes are fixed in docs/formats.md.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

UINT16_BELOW = (
    65500  # megatron.core DType.optimal_dtype: smaller vocabularies are stored in 2 bytes
)


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The dtype Megatron stores ids of a vocabulary of this size in: uint16 or int32."""
    return np.dtype(np.uint16 if vocabulary_size < UINT16_BELOW else np.int32)


class IndexWriter:
    """Writes documents in the order given; memory does not grow with their number.

    Every document is one sequence. As a context manager it removes its temporary files unless
    `finish()` or `keep()` was called. A failed write leaves it unusable.

    Raises ValueError when an array's type, size or ids do not fit, OSError (path, bytes asked,
    reason) when the system refuses a write, BlockingIOError when another process is writing the
    same prefix.
    """

    def __init__(
        self, prefix: Path | str, vocabulary_size: int, after: tuple[int, int] | None = None
    ) -> None:
        """vocabulary_size: highest id + 1; it decides the dtype, and ids beyond it are refused.

        after: (documents, tokens) of the temporary files that an earlier writer kept, to go on
        behind them; what follows them is cut off. OSError when they hold less, ValueError or
        RuntimeError when they are no such files.
        """
        self._writer = _native.IndexWriter(str(prefix), vocabulary_size, *(after or ()))
        self.dtype = np.dtype(self._writer.dtype)

    def add_documents(self, tokens: npt.NDArray, lengths: npt.NDArray[np.int32]) -> None:
        """Append len(lengths) documents whose ids lie one after another in `tokens`.

        tokens: flat array of `self.dtype`; lengths: int32, tokens of each document, summing to
        len(tokens). Nothing is written when the arrays do not fit each other. Thread-safe; the
        interpreter lock is released while writing.
        """
        if lengths.dtype != np.int32 or not lengths.flags.c_contiguous:
            raise ValueError(f"lengths must be a contiguous int32 array, found {lengths.dtype}")
        self._writer.add_documents(tokens, lengths)

    def flush(self) -> None:
        """Hand everything added so far to the system."""
        self._writer.flush()

    def sync_data(self) -> None:
        """Wait until what was flushed is on the disk; another thread may add meanwhile."""
        self._writer.sync_data()

    def keep(self) -> None:
        """From now on the temporary files stay, whatever happens, for a writer to go on with."""
        self._writer.keep()

    def complete(self) -> None:
        """Write the rest of the index and fsync, still under the temporary names."""
        self._writer.complete()

    def finish(self) -> None:
        """Complete the index, give both files their final names, fsync the folder."""
        self._writer.finish()

    def leave(self) -> None:
        """Close the files; temporary ones go, unless they are to be kept."""
        self._writer.leave()

    def abandon(self) -> None:
        """Remove the temporary files. No effect after `finish()`."""
        self._writer.abandon()

    @property
    def num_documents(self) -> int:
        return self._writer.num_documents

    @property
    def num_tokens(self) -> int:
        return self._writer.num_tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


def frame_documents(
    tokens: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    bos_id: int | None,
    eod_id: int | None,
    dtype: np.dtype,
) -> tuple[npt.NDArray, npt.NDArray[np.int32]]:
    """Put `bos_id` before and `eod_id` behind every document of flat `tokens`.

    Returns (tokens as `dtype`: uint16 or int32; lengths). ValueError when the lengths do not sum
    to len(tokens), or for an id that `dtype` cannot hold. Releases the interpreter lock.
    """
    bos, eod = (-1 if i is None else i for i in (bos_id, eod_id))
    return _native.frame_documents(tokens, lengths, bos, eod, dtype == np.int32)


def frame_roles(
    roles: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int32],
    has_bos: bool,
    has_eod: bool,
    *,
    opening: int,
    lonely: int,
) -> npt.NDArray[np.uint8]:
    """The roles of framed documents: BOS takes `opening`, EOD the role of the token before it.

    lengths: before framing. lonely: role of an EOD that has no token before it.
    """
    return _native.frame_roles(roles, lengths, has_bos, has_eod, opening, lonely)
