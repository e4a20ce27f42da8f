"""The index writer in plain NumPy: what csrc/index_writer.cpp must equal, byte for byte.

Keeps everything in memory and says no more than the format does.
"""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.base.files import atomic_open
from megatron_math.native.index_writer import token_dtype

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODE = {"int32": 4, "uint16": 8}  # megatron.core.datasets.indexed_dataset.DType


class ReferenceIndexWriter:
    """Same calls, same errors for unfit arrays, same bytes as `IndexWriter`."""

    def __init__(self, prefix: Path | str, vocabulary_size: int) -> None:
        if not 1 <= vocabulary_size <= 2**31:
            raise ValueError(f"vocabulary_size must be in [1, 2^31], found {vocabulary_size}")
        self.prefix = str(prefix)
        self.vocabulary_size = vocabulary_size
        self.dtype = token_dtype(vocabulary_size)
        self._tokens: list[npt.NDArray] = []
        self._lengths: list[npt.NDArray[np.int32]] = []

    def add_documents(self, tokens: npt.NDArray, lengths: npt.NDArray[np.int32]) -> None:
        if tokens.dtype != self.dtype or lengths.dtype != np.int32:
            raise ValueError(
                f"expected {self.dtype} and int32, found {tokens.dtype}, {lengths.dtype}"
            )
        if tokens.ndim != 1 or lengths.ndim != 1:
            raise ValueError(f"expected one axis each, found {tokens.ndim} and {lengths.ndim}")
        if (lengths < 0).any() or lengths.sum(dtype=np.int64) != len(tokens):
            raise ValueError(f"lengths {lengths} do not describe {len(tokens)} tokens")
        if ((tokens < 0) | (tokens >= self.vocabulary_size)).any():
            raise ValueError(f"an id is outside the vocabulary of {self.vocabulary_size}")
        self._tokens.append(tokens.copy())
        self._lengths.append(lengths.copy())

    def finish(self) -> None:
        tokens = np.concatenate([np.empty(0, self.dtype), *self._tokens])
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        num_documents = len(lengths)
        ends_bytes = lengths.cumsum(dtype=np.int64) * self.dtype.itemsize
        with atomic_open(Path(self.prefix + ".bin"), "wb") as file:
            file.write(tokens.tobytes())
        with atomic_open(Path(self.prefix + ".idx"), "wb") as file:
            file.write(MAGIC)
            file.write(struct.pack("<QB", VERSION, DTYPE_CODE[self.dtype.name]))
            file.write(struct.pack("<QQ", num_documents, num_documents + 1))
            file.write(lengths.tobytes())
            file.write((ends_bytes - lengths * np.int64(self.dtype.itemsize)).tobytes())
            file.write(np.arange(num_documents + 1, dtype=np.int64).tobytes())


def frame_documents(
    tokens: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    bos_id: int | None,
    eod_id: int | None,
    dtype: np.dtype,
) -> tuple[npt.NDArray, npt.NDArray[np.int32]]:
    """Twin of `index_writer.frame_documents`."""
    opening, ending = ([] if i is None else [i] for i in (bos_id, eod_id))
    rows = [
        [*opening, *document.tolist(), *ending]
        for document in np.split(tokens, np.cumsum(lengths)[:-1])[: len(lengths)]
    ]
    flat = [token for row in rows for token in row]
    return np.array(flat, dtype), np.array([len(row) for row in rows], np.int32)


def frame_roles(
    roles: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int32],
    has_bos: bool,
    has_eod: bool,
    *,
    opening: int,
    lonely: int,
) -> npt.NDArray[np.uint8]:
    """Twin of `index_writer.frame_roles`."""
    flat: list[int] = []
    for document in np.split(roles, np.cumsum(lengths)[:-1])[: len(lengths)]:
        row = document.tolist()
        flat += [opening] * has_bos + row + [row[-1] if row else lonely] * has_eod
    return np.array(flat, np.uint8)
