"""The lineage file `<prefix>_<key>_document.ids`: the record id of every document, by number.

Bytes (little-endian; also in docs/formats.md): "MMRECIDS" | version u64 = 1 | documents u64 (N)
| text bytes u64 (T) | UTF-8 ids, one after another [T] | zeros to a multiple of 8 | i64[N + 1]:
where each id begins in the text, and T. Ids carry no separator, so any string is an id.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from megatron_math.base.errors import UserError

MAGIC = b"MMRECIDS"
VERSION = 1
HEADER_BYTES = 32


class RecordIdsWriter:
    """Streams ids to `file` (binary, seekable); keeps 4 bytes a document until `finish`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lengths: list[np.ndarray] = []
        self._file.write(bytes(HEADER_BYTES))

    def add(self, ids: Iterable[str]) -> None:
        encoded = [name.encode("utf-8") for name in ids]
        self._lengths.append(np.fromiter(map(len, encoded), np.int32, len(encoded)))
        self._file.write(b"".join(encoded))

    def finish(self) -> None:
        """Write the offsets and the header; the caller closes the file."""
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, dtype=np.int64, out=offsets[1:])
        num_bytes = int(offsets[-1])
        self._file.write(bytes(-num_bytes % 8))
        self._file.write(offsets.tobytes())
        self._file.seek(0)
        self._file.write(struct.pack("<8sQQQ", MAGIC, VERSION, len(lengths), num_bytes))


class RecordIds:
    """Record ids by document number, memory-mapped. UserError when the file is damaged."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
        size = path.stat().st_size
        magic, version, count, num_bytes = struct.unpack(
            "<8sQQQ", header.ljust(HEADER_BYTES, b"\0")
        )
        offsets_at = HEADER_BYTES + num_bytes + -num_bytes % 8
        if magic != MAGIC or version != VERSION or size != offsets_at + 8 * (count + 1):
            raise UserError(
                f"{path} is no whole file of record ids: begins with {magic!r}, version {version}, "
                f"{count} ids of {num_bytes} bytes, {size} bytes in all; write the index again"
            )
        self._bytes = np.memmap(path, np.uint8, "r")
        self._offsets = np.memmap(path, np.int64, "r", offsets_at, (count + 1,))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, document: int) -> str:
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        begin, end = (HEADER_BYTES + int(self._offsets[document + i]) for i in (0, 1))
        return self._bytes[begin:end].tobytes().decode("utf-8")
