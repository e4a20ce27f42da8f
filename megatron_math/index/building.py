"""One index on its way: tokens, lineage and roles under `.partial` names, counts, digests."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial as partial_call
from pathlib import Path
from typing import Any

import numpy.typing as npt
from blake3 import blake3

from megatron_math.base.errors import UserError
from megatron_math.base.files import CHUNK_BYTES, blake3_file
from megatron_math.dataset.documents import ROLES
from megatron_math.index.journal import beside, partial
from megatron_math.index.recipes import Recipe
from megatron_math.index.record_ids import RecordIdsWriter
from megatron_math.index.workers import EncodedColumn
from megatron_math.native.index_reader import HEADER_BYTES
from megatron_math.native.index_writer import IndexWriter
from megatron_math.native.output_file import OutputFile

MOST_WAITING_BYTES = 1 << 23  # given to a writer and not yet digested
SUFFIXES = (".bin", ".idx", ".ids", ".roles", ".json")


@dataclass(frozen=True)
class Output:
    """One index to write: path without suffix, and how a row becomes its text."""

    prefix: Path
    recipe: Recipe = Recipe()

    def path(self, suffix: str) -> Path:
        return beside(self.prefix, suffix)

    @property
    def paths(self) -> list[Path]:
        """The files of a whole one, as far as they are there; `.roles` is not always one."""
        paths = [self.path(suffix) for suffix in SUFFIXES]
        return [path for path in paths if path.is_file()]


@dataclass
class Counts:
    """Of one index so far; what the journal remembers of it."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    id_bytes: int = 0
    role_bytes: int = 0
    empty: int = 0
    quarantined: int = 0
    compared: int = 0


class IndexBuilding:
    """Appends encoded documents; `leave` closes the files, which stay once `keep` was called."""

    def __init__(self, output: Output, vocabulary_size: int, before: Counts | None) -> None:
        """before: what an earlier process wrote, to go on behind it; what follows is cut off."""
        self.output = output
        self.counts = before or Counts()
        self._leave: list[Callable[[], None]] = []
        after = ids_after = None
        if before is not None:
            after = before.documents, before.tokens
            ids_after = before.documents, before.id_bytes
        try:
            self.writer = IndexWriter(output.prefix, vocabulary_size, after)
            self._leave.append(self.writer.leave)
            self.ids = RecordIdsWriter(output.path(".ids"), ids_after)
            self._leave += [part.leave for part in self.ids.parts]
            before_bytes = self.counts.tokens * self.writer.dtype.itemsize
            self._digests = {".bin": WrittenDigest(partial(output.path(".bin")), before_bytes)}
            self.roles: OutputFile | None = None
            if self.counts.role_bytes:
                self._open_roles(self.counts.role_bytes)
            self._leave.append(self._digests[".bin"].close)
        except BaseException as error:
            self.leave()
            if before is None or not isinstance(error, RuntimeError | ValueError):
                raise
            raise UserError(
                f"{output.prefix} cannot be gone on with ({error}); remove the .progress.json "
                f"beside it to start afresh"
            ) from None

    def add(self, column: EncodedColumn, file: int, lines_before: int) -> None:
        """file: number among those of the index. lines_before: in that file."""
        counts, documents = self.counts, column.documents
        counts.empty += column.num_empty
        counts.quarantined += column.num_quarantined
        counts.compared += column.num_compared
        if documents is None:
            return
        if documents.roles is not None and self.roles is None:
            self._open_roles(None)  # all tokens so far are of plain texts
            self._append_other(counts.tokens)
        self.writer.add_documents(documents.tokens, documents.lengths)
        self._digests[".bin"].add(bytes_of(documents.tokens))
        lines = documents.rows + (lines_before + 1)
        self.ids.add(file, lines, documents.id_text, documents.id_offsets)
        if documents.roles is not None and self.roles is not None:
            self._append_roles(bytes_of(documents.roles))
        elif self.roles is not None:
            self._append_other(len(documents.tokens))
        counts.documents, counts.tokens = self.writer.num_documents, self.writer.num_tokens
        counts.id_bytes = self.ids.text_bytes
        counts.role_bytes = self.roles.num_bytes if self.roles else 0
        counts.text_bytes += documents.text_bytes

    def _open_roles(self, keep_bytes: int | None) -> None:
        self.roles = OutputFile(self.output.path(".roles"), keep_bytes)
        self._leave.append(self.roles.leave)
        self._digests[".roles"] = WrittenDigest(self.roles.partial_path, keep_bytes or 0)
        self._leave.append(self._digests[".roles"].close)

    def _append_other(self, count: int) -> None:
        others = memoryview(bytes([ROLES["other"]]) * min(CHUNK_BYTES, count))
        for first in range(0, count, CHUNK_BYTES):
            self._append_roles(others[: count - first])

    def _append_roles(self, roles: memoryview) -> None:
        assert self.roles is not None, self.output
        self.roles.append(roles)
        self._digests[".roles"].add(roles)

    def flush(self) -> None:
        """All that was added is in the system's hands."""
        self.writer.flush()
        for part in self._files:
            part.flush()

    @property
    def syncs(self) -> list[Callable[[], None]]:
        """What brings the flushed bytes to the disk, and then lets the system forget them."""
        tokens_bytes = self.counts.tokens * self.writer.dtype.itemsize
        let_go = partial_call(self._digests[".bin"].let_go, tokens_bytes)
        return [self.writer.sync_data, let_go, *(part.sync_data for part in self._files)]

    def partials(self) -> dict[str, int]:
        """Name of each temporary file -> bytes that were flushed."""
        tokens, documents = self.counts.tokens, self.counts.documents
        sizes = {
            partial(self.output.path(".bin")).name: tokens * self.writer.dtype.itemsize,
            partial(self.output.path(".idx")).name: HEADER_BYTES + documents * 4,
        }
        return sizes | {part.partial_path.name: part.num_bytes for part in self._files}

    def keep(self) -> None:
        self.writer.keep()
        for part in self._files:
            part.keep()

    def leave(self) -> None:
        """Close all files; those that nobody wants to keep go."""
        while self._leave:
            self._leave.pop()()

    def complete(self, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        """Write what is still missing; returns `bytes` and `blake3` of each file, by kind."""
        self.flush()
        self.writer.complete()
        self.ids.complete(names)
        facts: dict[str, dict[str, Any] | None] = {}
        for suffix in (".bin", ".idx", ".ids", ".roles"):
            path = partial(self.output.path(suffix))
            if suffix == ".roles" and self.roles is None:
                facts["roles"] = None
                continue
            if suffix == ".roles" and self.roles is not None:
                self.roles.sync()
            digest = self._digests.get(suffix)
            blake3_of = digest.finish() if digest else blake3_file(path)
            facts[suffix[1:]] = {"bytes": path.stat().st_size, "blake3": blake3_of}
        return facts

    @property
    def _files(self) -> list[OutputFile]:
        return [*self.ids.parts, *([self.roles] if self.roles is not None else [])]


def bytes_of(values: npt.NDArray) -> memoryview:
    """The same memory, as bytes."""
    return values.data.cast("B") if values.size else memoryview(b"")


class WrittenDigest:
    """blake3 of a growing file, made in a thread from what its writer is given.

    Nothing is read back but what an earlier process wrote: of what is digested the file cannot
    differ unseen.
    """

    def __init__(self, path: Path, before_bytes: int) -> None:
        """before_bytes: of the file at `path`, to be gone on behind."""
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._digest = blake3()
        self._let_go_bytes = self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(1, "digest")
        self._waiting: deque[tuple[Future[Any], int]] = deque()
        self._waiting.append((self._thread.submit(self._read_back, before_bytes), 0))

    def add(self, data: memoryview) -> None:
        """The file's next bytes, which nobody changes any more. OSError where reading back failed.

        Waits while more than MOST_WAITING_BYTES are to be digested.
        """
        self._waiting.append((self._thread.submit(self._digest.update, data), data.nbytes))
        self._waiting_bytes += data.nbytes
        while self._waiting and (
            self._waiting[0][0].done() or self._waiting_bytes > MOST_WAITING_BYTES
        ):
            self._wait_for_first()

    def let_go(self, num_bytes: int) -> None:
        """The first `num_bytes` of the file are on disk and leave the page cache.

        A corpus is larger than memory and would push out what others read. On a virtual machine
        new pages for 2.5 GB cost 4 s of system time besides, pages that were let go 0.9 s
        (2026-11-22).
        """
        before, self._let_go_bytes = self._let_go_bytes, num_bytes
        with suppress(OSError):  # only advice
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(self._descriptor, before, num_bytes - before, advice)

    def finish(self) -> str:
        while self._waiting:
            self._wait_for_first()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        os.close(self._descriptor)

    def _wait_for_first(self) -> None:
        future, num_bytes = self._waiting.popleft()
        self._waiting_bytes -= num_bytes
        future.result()  # raises what went wrong

    def _read_back(self, num_bytes: int) -> None:
        chunk, at = memoryview(bytearray(CHUNK_BYTES)), 0
        while at < num_bytes:
            got = os.preadv(self._descriptor, [chunk[: num_bytes - at]], at)
            if got == 0:
                raise OSError(5, f"cannot read back byte {at}", str(self._path))
            self._digest.update(chunk[:got])
            at += got
