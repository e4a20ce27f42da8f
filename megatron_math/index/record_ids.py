"""The lineage file `<prefix>_<key>_document.ids`: where every document came from, by its number.

Bytes (little-endian; also in docs/formats.md): "MMRECIDS" | version u64 = 2 | documents u64 (N)
| files u64 (F) | bytes of names u64 | bytes of ids u64 | 16 zeros | rows[N] | names | ids.
A row: where its id begins among the ids i64, line i64 (from 1), file i32, bytes of the id i32.
Names: F paths, each with a zero byte behind. A record without an id has 0 bytes there.
"""

import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.files import CHUNK_BYTES
from megatron_math.native.output_file import OutputFile

MAGIC = b"MMRECIDS"
VERSION = 2
HEADER = struct.Struct("<8sQQQQQ16x")
ROW = np.dtype([("begin", "<i8"), ("line", "<i8"), ("file", "<i4"), ("bytes", "<i4")])


class RecordIdsWriter:
    """Streams rows to `<path>.partial` and ids to `<path>_text.partial`; memory does not grow.

    parts: the two files, for whoever flushes, syncs and keeps them.
    """

    def __init__(self, path: Path, after: tuple[int, int] | None = None) -> None:
        """after: (documents, bytes of ids) of an earlier writer's files, to go on behind them."""
        keep_rows = None if after is None else HEADER.size + after[0] * ROW.itemsize
        self._rows = OutputFile(path, keep_rows)
        try:
            self._text = OutputFile(path.with_name(path.name + "_text"), after and after[1])
        except BaseException:
            self._rows.leave()
            raise
        self.parts = (self._rows, self._text)
        if after is None:
            self._rows.append(bytes(HEADER.size))

    def add(
        self,
        file: int,
        lines: npt.NDArray[np.int64],
        text: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
    ) -> None:
        """Documents of one file: their lines (from 1) and ids, flat UTF-8 with offsets [n + 1]."""
        rows = np.empty(len(lines), ROW)
        rows["begin"] = offsets[:-1] + (self.text_bytes - offsets[0])
        rows["line"] = lines
        rows["file"] = file
        rows["bytes"] = np.diff(offsets)
        self.add_text(text[offsets[0] : offsets[-1]])
        self.add_rows(rows)

    def add_rows(self, rows: npt.NDArray) -> None:
        """rows: ROW[n] whose ids `add_text` adds, before or after."""
        self._rows.append(rows.view(np.uint8))

    def add_text(self, text: npt.NDArray[np.uint8]) -> None:
        self._text.append(text)

    @property
    def text_bytes(self) -> int:
        return self._text.num_bytes

    def complete(self, names: Sequence[str]) -> None:
        """Join the two into one file, on disk under its temporary name. names: of the files."""
        count, rest = divmod(self._rows.num_bytes - HEADER.size, ROW.itemsize)
        assert rest == 0, self._rows.num_bytes
        encoded = b"".join(name.encode("utf-8") + b"\0" for name in names)
        self._rows.append(encoded)
        self._text.flush()
        with open(self._text.partial_path, "rb") as text:
            while chunk := text.read(CHUNK_BYTES):
                self._rows.append(chunk)
        self._rows.flush()
        header = HEADER.pack(MAGIC, VERSION, count, len(names), len(encoded), self.text_bytes)
        self._rows.overwrite(header, 0)
        self._rows.sync()


class RecordIds:
    """Where documents came from, memory-mapped. UserError when the file is damaged.

    rows: ROW[N].
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            header = file.read(HEADER.size).ljust(HEADER.size, b"\0")
        size = path.stat().st_size
        magic, version, count, self.num_files, name_bytes, self.text_bytes = HEADER.unpack(header)
        if magic == MAGIC and version != VERSION:
            raise UserError(
                f"{path} has version {version} of the record ids, this program reads {VERSION}; "
                f"write the index again"
            )
        self._names_at = HEADER.size + count * ROW.itemsize
        self._text_at = self._names_at + name_bytes
        if magic != MAGIC or size != self._text_at + self.text_bytes:
            raise UserError(
                f"{path} is no whole file of record ids: begins with {magic!r}, {count} ids of "
                f"{self.text_bytes} bytes, {size} bytes in all; write the index again"
            )
        self._bytes = np.memmap(path, np.uint8, "r")
        self.rows: npt.NDArray = np.empty(0, ROW)
        if count:
            self.rows = np.asarray(np.memmap(path, ROW, "r", HEADER.size, (count,)))

    @cached_property
    def files(self) -> list[str]:
        """Paths, as they were given when the index was written."""
        text = self._bytes[self._names_at : self._text_at].tobytes().decode("utf-8")
        return text.split("\0")[:-1]

    @property
    def text(self) -> npt.NDArray[np.uint8]:
        """All ids, one after another."""
        return np.asarray(self._bytes[self._text_at :])

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, document: int) -> tuple[str, int]:
        """(path, line from 1) of a document; of parquet, the row."""
        row = self.rows[self._checked(document)]
        return self.files[int(row["file"])], int(row["line"])

    def __getitem__(self, document: int) -> str:
        """The record's id; `<file name>:<line>` where it has none."""
        row = self.rows[self._checked(document)]
        if row["bytes"]:
            begin = self._text_at + int(row["begin"])
            return self._bytes[begin : begin + int(row["bytes"])].tobytes().decode("utf-8")
        path, line = self.place(document)
        return f"{Path(path).name}:{line}"

    def _checked(self, document: int) -> int:
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        return document
