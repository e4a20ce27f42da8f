"""Typed door to csrc/file_reads.cpp: parts of a large file, read without mapping it.

The readable twins are in `reference_file_reads`. The interpreter lock is released.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

Int64Array = npt.NDArray[np.int64]


def read_ranges(
    descriptor: int, path: Path, begins: Int64Array, sizes: Int64Array
) -> npt.NDArray[np.uint8]:
    """The bytes begins[i] .. begins[i] + sizes[i] - 1 of an open file, one range after another.

    OSError, with `path`, where the system refuses or the file ends before; ValueError for ranges
    that no file has.
    """
    return _native.read_ranges(descriptor, str(path), begins, sizes)


def epoch_positions(
    num_documents: int,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    first: int,
    count: int,
) -> Int64Array:
    """The documents of `order.epoch_documents` without their lengths."""
    return _native.epoch_positions(num_documents, split_key, epoch_key, num_held_out, first, count)
