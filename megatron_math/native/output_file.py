"""Typed door to csrc/output_file.cpp: a file that grows as `<path>.partial`, locked while open."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

PARTIAL = ".partial"
Bytes = bytes | bytearray | memoryview | npt.NDArray


class OutputFile:
    """Buffered, append-only. `<path>` itself is touched by nobody here: rename when all is whole.

    As a context manager it removes the temporary file unless `keep()` was called. Raises OSError
    with the path, the bytes asked and the system's reason, BlockingIOError while another process
    writes it. One thread at a time, but for `sync_data`.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None) -> None:
        """keep_bytes: go on behind so many bytes of an earlier temporary file; OSError when it
        holds fewer. None: from the beginning."""
        self.path = path
        self.partial_path = path.with_name(path.name + PARTIAL)
        self._file = _native.OutputFile(str(path), -1 if keep_bytes is None else keep_bytes)

    def append(self, data: Bytes) -> None:
        self._file.append(data)

    def overwrite(self, data: Bytes, at: int) -> None:
        """Replace bytes that were flushed."""
        self._file.overwrite(data, at)

    def flush(self) -> None:
        """Hand everything appended so far to the system."""
        self._file.flush()

    def sync(self) -> None:
        """Flush, and wait until all is on the disk."""
        self._file.sync()

    def sync_data(self) -> None:
        """Wait until what was flushed is on the disk; another thread may append meanwhile."""
        self._file.sync_data()

    def keep(self) -> None:
        """From now on the temporary file stays, whatever happens."""
        self._file.keep()

    def leave(self) -> None:
        """Close; the temporary file goes, unless it is to be kept."""
        self._file.leave()

    @property
    def num_bytes(self) -> int:
        """Appended so far, kept ones included."""
        return self._file.num_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
