"""Read corpora in blocks of whole lines, so that a worker gets megabytes and not single documents.

Reads .jsonl and .json (one object a line), the same with .gz or .zst behind, and .parquet. A block
holds the lines that begin in 2 MiB of text; blocks are the same wherever reading starts.
"""

import glob
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from megatron_math.base.errors import UserError
from megatron_math.base.files import PIECE_BYTES, naming

UNIT_BYTES = PIECE_BYTES
BLOCK_BYTES = 1 << 21  # of text; divides UNIT_BYTES, so that no block lies in two units
AHEAD_BYTES = 1 << 16  # of a plain file beyond a block: mostly, its last line ends there
RAW_BYTES = 1 << 20  # read at a time from packed files
BEGINS_BYTES = 200  # of an unusable line that are shown
MAX_LINE_BYTES = 1 << 27
MAX_BATCH_ROWS = 1 << 16  # of parquet
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")
REMEDY = "fetch it again, or leave it out"


@dataclass(frozen=True)
class LongLine:
    """A line of more than `max_line_bytes`, of which only the beginning was kept."""

    num_bytes: int
    begins: bytes


@dataclass(frozen=True)
class Block:
    """Some rows of a file.

    begin, end: bytes of the file's text (unpacked, where the file is packed; rows of parquet).
    content: whole lines, one line that is too long, or rows as Arrow has them. num_bytes: about
    what it takes of memory. disk_bytes: what was read of the file itself by its end.
    """

    begin: int
    end: int
    content: memoryview | LongLine | Any
    num_bytes: int
    disk_bytes: int


class _Reads(Protocol):
    def read(self, count: int, /) -> bytes: ...


def find_files(patterns: str | Sequence[str], what: str) -> list[Path]:
    """The files that paths, folders (searched whole) and glob patterns stand for, by name.

    Raises UserError, beginning with `what`, where one of them stands for nothing or for a file of
    another kind, where a file would be read twice, and for a name that is no UTF-8.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [Path(pattern)] if Path(pattern).exists() else []
        found = found or [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        if not found:
            raise UserError(f"{what}: there is no file, folder or match for '{pattern}'")
        for path in found:
            files += _files_below(path, what) if path.is_dir() else [path]
    seen: set[Path] = set()
    for path in files:
        if not path.name.endswith(ENDINGS):
            raise UserError(f"{what}: {path} is not of a kind read here ({', '.join(ENDINGS)})")
        if path in seen:
            raise UserError(f"{what}: listed twice: {path}")
        if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
            raise UserError(f"{what}: the name {str(path)!r} is no UTF-8; rename the file")
        seen.add(path)
    if not files:
        raise UserError(f"{what}: no paths")
    return files


def _files_below(folder: Path, what: str) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(ENDINGS))
    if not found:
        raise UserError(
            f"{what}: the folder {folder} holds no file that ends in {', '.join(ENDINGS)}"
        )
    return found


def is_splittable(path: Path) -> bool:
    """Whether reading may start at any multiple of UNIT_BYTES: plain lines."""
    return path.name.endswith((".jsonl", ".json"))


def read_blocks(
    path: Path,
    *,
    begin: int = 0,
    stop: int | None = None,
    columns: Sequence[str] | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Block]:
    """The lines that begin at `begin` or later and before `stop`, in order.

    begin: where a block ended, or in a splittable file any byte: a line that has begun before it
    is passed over. columns: those wanted of parquet (None: all). A byte order mark
    at the very start is passed over. Raises UserError when the file cannot be read as what its name
    says.
    """
    if path.name.endswith(".parquet"):
        return _parquet_blocks(path, begin, columns)
    return _line_blocks(path, begin, stop, max_line_bytes)


def _line_blocks(path: Path, begin: int, stop: int | None, max_line_bytes: int) -> Iterator[Block]:
    with naming(path), open(path, "rb", buffering=0) as raw:
        if path.suffix in (".gz", ".zst"):
            text = _Gzip(raw, path) if path.suffix == ".gz" else _Zstandard(raw, path)
            _skip(text, begin, path)
            yield from _cut_lines(_Chunks(text.read, begin), raw.tell, None, max_line_bytes)
        else:
            chunks = _Chunks(raw.read, _seek_line(raw, begin), raw.seek)
            yield from _cut_lines(chunks, lambda: chunks.at, stop, max_line_bytes)


def _seek_line(raw: IO[bytes], begin: int) -> int:
    """Move to the first line that begins at `begin` or later."""
    at = raw.seek(max(0, begin - 1))  # a line begins behind a line end
    while begin and (chunk := raw.read(RAW_BYTES)):
        found = chunk.find(b"\n")
        at += len(chunk) if found < 0 else found + 1
        if found >= 0:
            break
    return raw.seek(at)


def _skip(text: _Reads, count: int, path: Path) -> None:
    while count:
        got = len(text.read(min(count, BLOCK_BYTES)))
        if not got:
            raise UserError(f"{path} holds less than before: it changed; start again")
        count -= got


class _Chunks:
    """A text in chunks that end at multiples of BLOCK_BYTES; the end of one may be given back.

    at: where in the text the next chunk begins. A chunk is a part of a bytes object; behind it lie
    `_ahead`, bytes of the next one, and nothing else. seek: of a file where that is cheap.
    """

    def __init__(
        self, read: Callable[[int], bytes], at: int, seek: Callable[[int], int] | None = None
    ) -> None:
        self.at = at
        self._read, self._seek = read, seek
        self._given_back = self._ahead = memoryview(b"")

    def next(self) -> memoryview:
        """Empty at the end of the text."""
        chunk, self._given_back = self._given_back, memoryview(b"")
        if not chunk:
            if self._seek and self._ahead:
                self._seek(self.at)
            num_bytes = BLOCK_BYTES - self.at % BLOCK_BYTES
            data = memoryview(self._read_full(num_bytes + (AHEAD_BYTES if self._seek else 0)))
            chunk, self._ahead = data[:num_bytes], data[num_bytes:]
            if self.at == 0 and chunk[:3] == BYTE_ORDER_MARK:
                self.at = len(BYTE_ORDER_MARK)
                chunk = chunk[len(BYTE_ORDER_MARK) :]
        self.at += len(chunk)
        return chunk

    def last_line_begin(self, chunk: memoryview) -> int:
        """Where in the chunk that `next` gave the line begins that goes on behind it."""
        data, end = self._place(chunk)
        return max(0, data.rfind(b"\n", end - len(chunk), end) + 1 - (end - len(chunk)))

    def with_line_end(self, chunk: memoryview) -> memoryview | None:
        """That chunk and what is missing of its last line, uncopied; None where it is not ahead."""
        data, end = self._place(chunk)
        line_end = data.find(b"\n", end)
        if line_end < 0:
            return None
        self.at += line_end + 1 - end
        return memoryview(data)[end - len(chunk) : line_end + 1]

    def _place(self, chunk: memoryview) -> tuple[bytes, int]:
        """(what holds the chunk, where it ends in there)."""
        data: bytes = chunk.obj  # type: ignore[assignment]  # a view of bytes
        return data, len(data) - len(self._ahead)

    def give_back(self, chunk: memoryview) -> None:
        self._given_back = chunk
        self.at -= len(chunk)

    def _read_full(self, count: int) -> bytes:
        data = self._read(count)
        parts, left = [data], count - len(data)
        while left and data and (data := self._read(left)):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)  # of one part: that part itself


def _cut_lines(
    text: _Chunks, tell: Callable[[], int], stop: int | None, max_line_bytes: int
) -> Iterator[Block]:
    """A block a chunk: the lines that begin in it. `text` stands where a line begins."""
    while stop is None or text.at < stop:
        chunk = text.next()
        if not chunk:
            return
        begin = text.at - len(chunk)
        line_begin = text.last_line_begin(chunk)
        if line_begin == len(chunk):
            yield Block(begin, text.at, chunk, len(chunk), tell())
            continue
        if len(chunk) - line_begin + AHEAD_BYTES <= max_line_bytes:
            lines = text.with_line_end(chunk)
            if lines is not None:
                yield Block(begin, text.at, lines, len(lines), tell())
                continue
        more, line_bytes = _finish_line(text, len(chunk) - line_begin, max_line_bytes)
        if more is not None:
            lines = memoryview(b"".join([chunk, *more]))
            yield Block(begin, text.at, lines, len(lines), tell())
            continue
        if line_begin:
            yield Block(begin, begin + line_begin, chunk[:line_begin], line_begin, tell())
        long_line = LongLine(line_bytes, chunk[line_begin:][:BEGINS_BYTES].tobytes())
        yield Block(begin + line_begin, text.at, long_line, 0, tell())


def _finish_line(
    text: _Chunks, num_bytes: int, max_line_bytes: int
) -> tuple[list[memoryview] | None, int]:
    """Read up to the end of a line of which `num_bytes` are known.

    Returns its other parts (None when it is too long; it is not kept then) and its bytes, without
    the line end.
    """
    parts: list[memoryview] = []
    ended = False
    while not ended and (chunk := text.next()):
        line_end = chunk.obj.find(b"\n", 0, len(chunk))  # type: ignore[attr-defined]
        ended = line_end >= 0
        num_bytes += line_end if ended else len(chunk)
        if num_bytes > max_line_bytes:
            parts = []  # the memory of a line that is let go of does not grow
        else:
            parts.append(chunk[: line_end + 1] if ended else chunk)
        if ended:
            text.give_back(chunk[line_end + 1 :])
    return (parts if num_bytes <= max_line_bytes else None), num_bytes


class _Gzip:
    """Unpacks one gzip member after another (as pigz and cat make them), with their checksums."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        self._raw, self._path = raw, path
        self._packed = b""
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._begun = False  # whether this member has had a byte

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; none at the end. UserError when the file is damaged or cut."""
        while True:
            if not self._packed:
                self._packed = self._raw.read(RAW_BYTES)
            if not self._packed:
                if self._begun or not self._raw.tell():
                    self._refuse("it ends too early")
                return b""
            try:
                data = self._member.decompress(self._packed, count)
            except zlib.error as error:
                self._refuse(str(error))
            self._begun = True
            self._packed = self._member.unconsumed_tail
            if self._member.eof:
                self._next_member(self._member.unused_data)
            if data:
                return data

    def _next_member(self, rest: bytes) -> None:
        rest = rest.lstrip(b"\0")  # padding, as tapes have it
        while not rest and (rest := self._raw.read(RAW_BYTES)):
            rest = rest.lstrip(b"\0")
        if rest and not b"\x1f\x8b".startswith(rest[:2]):
            self._refuse(f"{len(rest)} or more bytes behind its end are no gzip")
        self._packed, self._begun = rest, False
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"{self._path} is damaged or not gzip: {why}, near byte {self._raw.tell()}; {REMEDY}"
        ) from None


class _Zstandard:
    """Unpacks zstandard frames, through Arrow."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        import pyarrow

        self._raw, self._path = raw, path
        self._text = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd")

    def read(self, count: int) -> bytes:
        """As _Gzip.read."""
        why: object = "it is empty"
        try:
            data = self._text.read(count)
            if data or self._raw.tell():
                return data
        except OSError as error:
            if error.errno is not None:
                raise
            why = error
        raise UserError(f"{self._path} is damaged or not zstandard: {why}; {REMEDY}")


def _parquet_blocks(path: Path, begin: int, columns: Sequence[str] | None) -> Iterator[Block]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            meta, size = file.metadata, path.stat().st_size
            wanted = columns and [name for name in file.schema_arrow.names if name in columns]
            groups = map(meta.row_group, range(meta.num_row_groups))
            row_bytes = sum(group.total_byte_size for group in groups) // max(1, meta.num_rows)
            batch_rows = min(MAX_BATCH_ROWS, max(1, BLOCK_BYTES // max(1, row_bytes)))
            at = 0
            for batch in file.iter_batches(batch_size=batch_rows, columns=wanted):
                first, at = at, at + batch.num_rows
                if at > begin:
                    rows = batch.slice(max(0, begin - first))
                    yield Block(
                        max(begin, first), at, rows, rows.nbytes, size * at // meta.num_rows
                    )
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as parquet: {why}; {REMEDY}") from None
