"""One index on its way: tokens, lineage and roles under `.partial` names, counts, digests."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial as partial_call
from pathlib import Path
from typing import Any

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
            self._digests = {".bin": FollowingDigest(partial(output.path(".bin")))}
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
        lines = documents.rows + (lines_before + 1)
        self.ids.add(file, lines, documents.id_text, documents.id_offsets)
        if documents.roles is not None and self.roles is not None:
            self.roles.append(documents.roles)
        elif self.roles is not None:
            self._append_other(len(documents.tokens))
        counts.documents, counts.tokens = self.writer.num_documents, self.writer.num_tokens
        counts.id_bytes = self.ids.text_bytes
        counts.role_bytes = self.roles.num_bytes if self.roles else 0
        counts.text_bytes += documents.text_bytes

    def _open_roles(self, keep_bytes: int | None) -> None:
        self.roles = OutputFile(self.output.path(".roles"), keep_bytes)
        self._leave.append(self.roles.leave)
        self._digests[".roles"] = FollowingDigest(self.roles.partial_path)
        self._leave.append(self._digests[".roles"].close)

    def _append_other(self, count: int) -> None:
        assert self.roles is not None, self.output
        for first in range(0, count, CHUNK_BYTES):
            self.roles.append(bytes([ROLES["other"]]) * min(CHUNK_BYTES, count - first))

    def flush(self) -> None:
        """All that was added is in the system's hands; the digests go on as far."""
        self.writer.flush()
        for part in self._files:
            part.flush()
        self._digests[".bin"].advance(self.counts.tokens * self.writer.dtype.itemsize)
        if self.roles is not None:
            self._digests[".roles"].advance(self.roles.num_bytes)

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


class FollowingDigest:
    """blake3 of a growing file, made in a thread that reads behind the writer.

    It begins at the file's first byte, so that it is right for a file that was taken over too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._digest = blake3()
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._read_bytes = self._let_go_bytes = 0
        self._thread = ThreadPoolExecutor(1, "digest")
        self._last: Future[None] | None = None

    def advance(self, num_bytes: int) -> None:
        """The first `num_bytes` of the file are final."""
        if self._last is not None and self._last.done():
            self._last.result()  # raises what went wrong
        self._last = self._thread.submit(self._read_up_to, num_bytes)

    def _read_up_to(self, num_bytes: int) -> None:
        while self._read_bytes < num_bytes:
            wanted = min(CHUNK_BYTES, num_bytes - self._read_bytes)
            got = os.preadv(self._descriptor, [self._chunk[:wanted]], self._read_bytes)
            if got == 0:
                raise OSError(5, f"cannot read back byte {self._read_bytes}", str(self._path))
            self._digest.update(self._chunk[:got])
            self._read_bytes += got

    def let_go(self, num_bytes: int) -> None:
        """The first `num_bytes` are on disk; what was digested of them leaves the page cache.

        A corpus is larger than memory and would push out what others read. On a virtual machine
        new pages for 2.5 GB cost 4 s of system time besides, pages that were let go 0.9 s
        (2026-11-22).
        """
        before, self._let_go_bytes = self._let_go_bytes, min(num_bytes, self._read_bytes)
        if before < self._let_go_bytes:
            with suppress(OSError):  # only advice
                count = self._let_go_bytes - before
                os.posix_fadvise(self._descriptor, before, count, os.POSIX_FADV_DONTNEED)

    def finish(self) -> str:
        if self._last is not None:
            self._last.result()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        os.close(self._descriptor)
