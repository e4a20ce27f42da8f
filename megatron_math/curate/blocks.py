"""Files of records in blocks of whole lines: .jsonl as it lies, .jsonl.gz and .parquet unpacked."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import naming
from megatron_math.base.records import enumerate_rows, record_from_row
from megatron_math.curate.lines import Place, json_line

BLOCK_BYTES = 1 << 21


@dataclass(frozen=True)
class Block:
    """Lines of a file. begin: byte of the unpacked file. lines_before: those that were read before,
    from byte `whence` of the file on. is_packed: the lines do not lie like this in the file."""

    path: Path
    begin: int
    content: bytes
    lines_before: int
    whence: int = 0
    is_packed: bool = False

    @property
    def place(self) -> Place | None:
        if self.is_packed:
            return None
        return Place(self.path, self.begin, self.begin + len(self.content))

    @cached_property
    def first_line(self) -> int:
        """The number of its first line in the file, from 1; what is before `whence` is counted."""
        before = count_lines(self.path, self.whence) if self.whence else 0
        return before + self.lines_before + 1


def is_packed(path: Path) -> bool:
    """Whether a file can be read from its beginning only."""
    return path.suffix in (".gz", ".parquet")


def read_blocks(
    path: Path, begin: int = 0, stop: int | None = None, *, source: str = ""
) -> Iterator[Block]:
    """The lines that begin at `begin` or later and before `stop`; of a packed file all.

    source: what rows of parquet say that have no `source`. Raises UserError when the file cannot be
    read as what its name says.
    """
    if path.suffix == ".parquet":
        yield from _parquet_blocks(path, source)
        return
    num_lines = 0
    with naming(path), open(path, "rb", buffering=0) as file:
        read: Callable[[int], bytes] = file.read
        if path.suffix == ".gz":
            read = _unpacking(path, gzip.GzipFile(fileobj=file).read)
        at = 0
        if begin:  # a line begins behind a line feed
            at = file.seek(begin - 1)
            while chunk := read(BLOCK_BYTES):
                found = chunk.find(b"\n")
                at += len(chunk) if found < 0 else found + 1
                if found >= 0:
                    break
            file.seek(at)
        for where, content in _whole_lines(read, at, stop):
            yield Block(path, where, content, num_lines, at, is_packed(path))
            num_lines += content.count(b"\n")


def count_lines(path: Path, end: int) -> int:
    """Line feeds in the first `end` bytes of a file."""
    count = 0
    with naming(path), open(path, "rb", buffering=0) as file:
        while end and (chunk := file.read(min(end, BLOCK_BYTES))):
            count += chunk.count(b"\n")
            end -= len(chunk)
    return count


def _whole_lines(
    read: Callable[[int], bytes], at: int, stop: int | None
) -> Iterator[tuple[int, bytes]]:
    """(byte of the first, lines), the last line of all with its line feed or without."""
    pieces: list[bytes | memoryview] = []
    while (stop is None or at < stop) and (chunk := read(BLOCK_BYTES)):
        end = chunk.rfind(b"\n") + 1
        if not end:
            pieces.append(chunk)
            continue
        content = b"".join([*pieces, memoryview(chunk)[:end]])
        pieces = [memoryview(chunk)[end:]]
        if stop is not None and at + len(content) >= stop:
            yield at, content[: content.index(b"\n", stop - at - 1) + 1]
            return
        yield at, content
        at += len(content)
    rest = b"".join(pieces)
    if rest and (stop is None or at < stop):
        yield at, rest


def _unpacking(path: Path, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def unpack(count: int) -> bytes:
        try:
            return read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is no whole gzip file ({error}); fetch it again") from None

    return unpack


def _parquet_blocks(path: Path, source: str) -> Iterator[Block]:
    """Rows as the lines that their records have."""
    lines: list[bytes] = []
    num_bytes = begin = rows_before = 0
    for number, row in enumerate_rows(path):
        record = record_from_row(
            row,
            default_id=f"{path.name}:{number}",
            default_source=source,
            where=f"{path}, line {number}",
        )
        lines.append(json_line(record.to_json()))
        num_bytes += len(lines[-1])
        if num_bytes >= BLOCK_BYTES:
            yield Block(path, begin, b"".join(lines), rows_before, is_packed=True)
            begin, rows_before = begin + num_bytes, number
            lines, num_bytes = [], 0
    if lines:
        yield Block(path, begin, b"".join(lines), rows_before, is_packed=True)
