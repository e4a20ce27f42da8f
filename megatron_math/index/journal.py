"""What a job has done so far: `<job>.progress.json`, replaced as a whole every few seconds.

It says how many bytes of each `.partial` file are good and where the input goes on, and is written
after those bytes are on the disk. `<job>.lock` keeps a second process away.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_math.base.errors import UserError
from megatron_math.base.files import fsync_folder, read_json, write_json
from megatron_math.native.output_file import PARTIAL

FORMAT, VERSION = "megatron-math progress", 2
WRITING, PUBLISHING = "writing", "publishing"


def beside(prefix: Path, suffix: str) -> Path:
    """`<prefix><suffix>`; a dot inside the prefix's name is no suffix of its own."""
    return prefix.with_name(prefix.name + suffix)


def partial(path: Path) -> Path:
    return beside(path, PARTIAL)


class JobLock:
    """Context manager: this process is the only one at work on `<job>`.

    Raises BlockingIOError when another one is. File systems without locks are trusted.
    """

    def __init__(self, job: Path) -> None:
        self._path = beside(job, ".lock")

    def __enter__(self) -> Self:
        while True:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._descriptor)
                raise BlockingIOError(
                    error.errno, "another process is writing these files", str(self._path)
                ) from None
            except OSError:
                return self
            if self._is_named():
                return self
            os.close(self._descriptor)  # its last owner removed it just now

    def _is_named(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._descriptor))

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Journal:
    """The journal of one job. Writing happens in a thread of its own, one entry at a time."""

    def __init__(self, job: Path) -> None:
        self.path = beside(job, ".progress.json")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: Future[None] | None = None

    def read(self) -> dict[str, Any] | None:
        """The last entry; None where there is none. UserError for one of another version."""
        if not self.path.is_file():
            return None
        entry = read_json(self.path)
        if entry.get("format") != FORMAT or entry.get("version") != VERSION:
            raise UserError(
                f"{self.path} was left by another version of this program "
                f"({entry.get('format')!r}, {entry.get('version')!r}); remove it to start afresh"
            )
        return entry

    @property
    def is_idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def write(self, entry: dict[str, Any], sync: Sequence[Callable[[], None]]) -> None:
        """Begin to sync the files and then to replace the entry; waits for an earlier one first."""
        self.wait()
        self._pending = self._thread.submit(self._write, entry, sync)

    def wait(self) -> None:
        """Until all that was begun is on disk. Raises OSError where that failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, entry: dict[str, Any], sync: Sequence[Callable[[], None]]) -> None:
        for each in sync:
            each()
        write_json(self.path, {"format": FORMAT, "version": VERSION, **entry})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()


def publish(prefix: Path, sizes: dict[str, int | None]) -> None:
    """Give the files of a whole index their final names; called again after a crash, it goes on.

    sizes: suffix -> bytes of `<prefix><suffix>.partial`; None: the new index has no such file, an
    older one may. First the old sidecar and .idx go, then the other files change, then .idx comes
    and last the sidecar: whatever a crash leaves is the old index, the new one, or none that can be
    opened, and never files of both that look like one.
    """
    for suffix in (".json", ".idx"):
        path = beside(prefix, suffix)
        if sizes[suffix] is None or partial(path).exists():
            path.unlink(missing_ok=True)
    fsync_folder(prefix.parent)
    for group in ((".bin", ".ids", ".roles"), (".idx",), (".json",)):
        for suffix in group:
            publish_file(beside(prefix, suffix), sizes[suffix])
        fsync_folder(prefix.parent)


def publish_file(path: Path, num_bytes: int | None) -> None:
    """`<path>.partial` of so many bytes becomes `path`, unless it did before; None: no file."""
    if num_bytes is None:
        path.unlink(missing_ok=True)
        partial(path).unlink(missing_ok=True)
        return
    if partial(path).exists():
        os.replace(partial(path), path)
    if path.stat().st_size != num_bytes:
        raise OSError(
            errno.EIO,
            f"the file has {path.stat().st_size} bytes where {num_bytes} were written; remove the "
            f".progress.json beside it and start again",
            str(path),
        )
