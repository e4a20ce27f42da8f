"""Read corpora in blocks of whole lines, so that a worker gets megabytes and not single documents.

Reads .jsonl and .json (one object a line), the same with .gz or .zst behind, and .parquet.
"""

import glob
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from megatron_math.base.errors import UserError
from megatron_math.base.records import parse_line

BLOCK_BYTES = 2_000_000  # of text; large enough that sending it costs nothing beside tokenizing
BLOCK_ROWS = 2_048  # of parquet
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")


@dataclass(frozen=True)
class Block:
    """Some rows of a file: raw lines, or parsed rows (parquet).

    first_line: number of the first row, from 1. disk_bytes: what it took of the file on disk.
    """

    path: Path
    first_line: int
    lines: bytes | list[dict[str, Any]]
    disk_bytes: int

    def rows(self) -> Iterator[tuple[int, Any]]:
        """(line number, parsed row); blank lines are passed over. UserError at a bad line."""
        if isinstance(self.lines, list):
            yield from enumerate(self.lines, start=self.first_line)
            return
        for number, line in enumerate(self.lines.split(b"\n"), start=self.first_line):
            if line.strip():
                yield number, parse_line(line, self.path, number)


def find_files(patterns: str | list[str], what: str) -> list[Path]:
    """The files that paths, folders (searched whole) and glob patterns stand for, by name.

    Raises UserError, beginning with `what`, where one of them stands for nothing or for a file of
    another kind, and where a file would be read twice.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [Path(pattern)] if Path(pattern).exists() else []
        found = found or [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        if not found:
            raise UserError(f"{what}: there is no file, folder or match for '{pattern}'")
        for path in found:
            files += _files_below(path, what) if path.is_dir() else [path]
    for path in files:
        if not path.name.endswith(ENDINGS):
            raise UserError(f"{what}: {path} is not of a kind read here ({', '.join(ENDINGS)})")
    twice = {str(path) for path in files if files.count(path) > 1} if len(files) < 10_000 else set()
    if twice or not files:
        raise UserError(f"{what}: " + (f"listed twice: {sorted(twice)}" if twice else "no paths"))
    return files


def _files_below(folder: Path, what: str) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(ENDINGS))
    if not found:
        raise UserError(
            f"{what}: the folder {folder} holds no file that ends in {', '.join(ENDINGS)}"
        )
    return found


def read_blocks(path: Path) -> Iterator[Block]:
    """The whole file, in order. UserError when it cannot be read as what its name says."""
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet_blocks(path)
        else:
            yield from _line_blocks(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or not gzip: {error}") from None
    except OSError as error:
        if error.errno is not None or path.suffix != ".zst":
            raise
        raise UserError(f"{path} is damaged or not zstandard: {error}") from None


def _line_blocks(path: Path) -> Iterator[Block]:
    first_line, before = 1, 0
    with open(path, "rb") as raw:
        for lines in _whole_lines(_decompressed(path, raw)):
            at = raw.tell()
            yield Block(path, first_line, lines, at - before)
            before = at
            first_line += lines.count(b"\n")


def _whole_lines(file: Any) -> Iterator[bytes]:
    """Blocks that end with a line's end (the last one maybe without)."""
    begun: list[bytes] = []  # the line that the last block cut
    while chunk := file.read(BLOCK_BYTES):
        whole, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield b"".join([*begun, whole, newline])
            begun = []
        begun.append(tail)
    if any(begun):
        yield b"".join(begun)


def _decompressed(path: Path, raw: IO[bytes]) -> Any:
    """Something whose read(n) gives the file's text in bytes."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd")
    return raw


def _parquet_blocks(path: Path) -> Iterator[Block]:
    from pyarrow import ArrowException, parquet

    first_line, size, sent = 1, path.stat().st_size, 0
    try:
        with parquet.ParquetFile(path) as file:
            num_rows = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=BLOCK_ROWS):
                upto = size * (first_line - 1 + batch.num_rows) // num_rows
                yield Block(path, first_line, batch.to_pylist(), upto - sent)
                first_line, sent = first_line + batch.num_rows, upto
    except ArrowException as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from None
