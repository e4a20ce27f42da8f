"""File reads in plain Python: what csrc/file_reads.cpp must equal."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.native.reference_order import epoch_documents

Int64Array = npt.NDArray[np.int64]


def read_ranges(
    descriptor: int, path: Path, begins: Int64Array, sizes: Int64Array
) -> npt.NDArray[np.uint8]:
    """One pread after another; see `file_reads.read_ranges`."""
    parts = []
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        if begin < 0 or size < 0:
            raise ValueError(f"{size} bytes at {begin} are no part of a file")
        parts.append(os.pread(descriptor, size, begin))
        if len(parts[-1]) < size:
            raise OSError(f"{path} ends before byte {begin + size}")
    return np.frombuffer(b"".join(parts), dtype=np.uint8)


def epoch_positions(
    num_documents: int,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    first: int,
    count: int,
) -> Int64Array:
    """`epoch_documents` of documents of length 0; see `file_reads.epoch_positions`."""
    lengths = np.zeros(num_documents, dtype=np.int32)
    return epoch_documents(lengths, split_key, epoch_key, num_held_out, first, count)[0]
