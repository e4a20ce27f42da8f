"""Integers in a part of a file, mapped where the part is small, read where it is large.

A mapping of a large file costs page faults that bring whole runs of pages into the process (and
from a cold file system into memory), and a file that is cut or fails under it ends the process by
SIGBUS. Scattered reads bring what is asked for, and fail with an OSError.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.native.file_reads import read_ranges

MAPPED_BYTES = 64 << 20  # a part up to this size is mapped
SCATTERED = 1024  # so many places of a larger part are read one by one, more through a mapping
FILES_KEPT_OPEN = 512

Int64Array = npt.NDArray[np.int64]


class _OpenFiles:
    """The files used last. One that must be opened again is refused if it is another by then."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Path, tuple[int, ...]], BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, identity: tuple[int, ...]) -> BinaryIO:
        """The caller holds the file while it reads, so that it is not closed meanwhile."""
        with self._lock:
            key = (path, identity)
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with its last holder
            if identity_of(file.fileno()) != identity:
                raise UserError(f"{path} was replaced or rewritten while it was in use")
            self._files[key] = file
            if len(self._files) > FILES_KEPT_OPEN:
                self._files.popitem(last=False)
            return file


_open_files = _OpenFiles()


def identity_of(file: Path | int) -> tuple[int, ...]:
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass
class FileArray:
    """`count` integers of `dtype` from byte `offset` of a file on, little-endian.

    identity: of the file when it was opened (`identity_of`).
    """

    path: Path
    dtype: np.dtype
    offset: int
    count: int
    identity: tuple[int, ...]

    @property
    def is_small(self) -> bool:
        return self.count * self.dtype.itemsize <= MAPPED_BYTES

    def is_mapped_for(self, num_places: int) -> bool:
        """Does `take` of so many places go through the mapping?"""
        return self.is_small or num_places > SCATTERED

    @cached_property
    def array(self) -> npt.NDArray:
        """All of it, mapped."""
        if self.count == 0:
            return np.empty(0, self.dtype)
        return np.asarray(np.memmap(self.path, self.dtype, "r", self.offset, (self.count,)))

    def part(self, first: int, count: int) -> npt.NDArray:
        """A copy of consecutive ones."""
        at = self.offset + first * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=at)

    def take(self, places: Int64Array) -> Int64Array:
        """Those at `places`, as int64."""
        if self.is_mapped_for(len(places)):
            return self.array[places].astype(np.int64)
        assert not len(places) or 0 <= places.min() <= places.max() < self.count
        return self._read(places, np.ones_like(places)).astype(np.int64)

    def gather(
        self, firsts: Int64Array, counts: Int64Array, *, copy: bool
    ) -> tuple[npt.NDArray, Int64Array]:
        """(flat array, where the runs of `counts` from `firsts` on begin in it).

        copy: read them into an array of their own, instead of the mapping.
        """
        if not copy:
            return self.array, firsts
        ends = np.cumsum(counts)
        return self._read(firsts, counts), ends - counts

    def open(self) -> BinaryIO:
        """The file, which the caller holds while it reads; UserError where it is another by now."""
        return _open_files.get(self.path, self.identity)

    def _read(self, firsts: Int64Array, counts: Int64Array) -> npt.NDArray:
        size = self.dtype.itemsize
        file = self.open()
        begins = self.offset + firsts * size
        return read_ranges(file.fileno(), self.path, begins, counts * size).view(self.dtype)
