"""Records as the lines that they lie in: a line that stays is written as it was read.

A line without `id` gets the one that its record has, `<file>:<line>`, in front of its members.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.files import naming
from megatron_math.base.records import Record, parse_line, record_from_row
from megatron_math.native.texts import ByteArray, Int64Array, choose_texts

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """Bytes of a file."""

    file: Path
    begin: int
    end: int

    def read(self) -> memoryview:
        """UserError where the file has become shorter."""
        with naming(self.file), open(self.file, "rb", buffering=0) as file:
            return memoryview(read_at(file.fileno(), self))


def read_at(descriptor: int, place: Place) -> bytes:
    """UserError where the file has become shorter."""
    pieces, at = [], place.begin
    while at < place.end and (piece := os.pread(descriptor, place.end - at, at)):
        pieces.append(piece)
        at += len(piece)
    if at < place.end:
        raise UserError(f"{place.file} became shorter while it was curated; curate it again")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass
class Lines:
    """Records of one file, in order.

    path: the file, whatever packs it. content: what holds the lines; None: `place` is read when it
    is needed. place: where on disk the content lies; None: nowhere, the file is packed. begins,
    ends: int64[n], of each line in the content, without its end. numbers: int64[n], lines of the
    file, from 1 (rows, of parquet). has_id: whether the line itself says it. id_text, id_offsets:
    the id of every record. changed: row -> what is written in place of its line.
    """

    source: str
    path: Path
    place: Place | None
    content: memoryview | None
    begins: Int64Array
    ends: Int64Array
    numbers: Int64Array
    has_id: Mask
    id_text: ByteArray
    id_offsets: Int64Array
    changed: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.begins)

    def read(self) -> memoryview:
        if self.content is None:
            assert self.place is not None, self.path
            self.content = self.place.read()
        return self.content

    def record(self, row: int) -> Record:
        record = record_from_row(
            self._parse(row),
            default_id=self.name(row)["id"],
            default_source=self.source,
            where=f"{self.path}, line {self.numbers[row]}",
        )
        return record if record.source == self.source else replace(record, source=self.source)

    def name(self, row: int) -> dict[str, str]:
        return {"source": self.source, "id": self._id(row).decode("utf-8", "surrogatepass")}

    def set_meta(self, row: int, meta: dict[str, Any]) -> None:
        """The record's `meta` from now on; its line keeps its other members."""
        members = self._parse(row)
        if not self.has_id[row]:
            members = {"id": self.name(row)["id"]} | members
        self.changed[row] = json_line(members | {"meta": meta})

    def write(self, file: IO[bytes], rows: Int64Array) -> None:
        """Write the lines of some records, by rising row, each with a line feed behind."""
        if not len(rows):
            return
        content, has_id = self.read(), self.has_id[rows]
        if self.changed or not has_id.all():
            file.writelines(self._line(row) for row in rows.tolist())
            return
        begins, ends = self.begins[rows], self.ends[rows]
        cuts = np.flatnonzero(begins[1:] != ends[:-1] + 1)  # between them lies more than a line end
        for begin, end in zip(
            begins[np.append(0, cuts + 1)].tolist(),
            ends[np.append(cuts, len(rows) - 1)].tolist(),
            strict=True,
        ):
            file.write(content[begin : end + 1])
            if end == len(content):
                file.write(b"\n")

    def copy(self, file: Path, at: int, rows: Int64Array, write: Callable[[bytes], Any]) -> "Lines":
        """Some records as lines of another file, where `write` puts them behind `at` bytes."""
        written = [self._line(row) for row in rows.tolist()]
        ends = np.cumsum([len(line) for line in written], dtype=np.int64)
        content = b"".join(written)
        write(content)
        begins = np.append(0, ends[:-1]) if len(ends) else ends
        chosen = self.select(rows)
        return replace(
            chosen,
            place=Place(file, at, at + len(content)),
            content=memoryview(content),
            begins=begins,
            ends=ends - 1,
            has_id=np.ones(len(rows), bool),
            changed={},
        )

    def select(self, rows: Int64Array) -> "Lines":
        id_text, id_offsets = choose_texts(self.id_text, self.id_offsets, rows)
        lines = [self.changed.get(row) for row in rows.tolist()] if self.changed else []
        return replace(
            self,
            begins=self.begins[rows],
            ends=self.ends[rows],
            numbers=self.numbers[rows],
            has_id=self.has_id[rows],
            id_text=id_text,
            id_offsets=id_offsets,
            changed={row: line for row, line in enumerate(lines) if line is not None},
        )

    def _id(self, row: int) -> bytes:
        return self.id_text[self.id_offsets[row] : self.id_offsets[row + 1]].tobytes()

    def _parse(self, row: int) -> Any:
        line = self.changed.get(row)
        if line is None:
            line = bytes(self.read()[self.begins[row] : self.ends[row]])
        return parse_line(line, self.path, int(self.numbers[row]))

    def _line(self, row: int) -> bytes:
        if row in self.changed:
            return self.changed[row]
        line = bytes(self.read()[self.begins[row] : self.ends[row]])
        if not self.has_id[row]:
            brace = line.index(b"{") + 1
            identity = json.dumps(self._id(row).decode("utf-8", "surrogatepass"))
            line = line[:brace] + b'"id": ' + identity.encode() + b", " + line[brace:]
        return line + b"\n"


def json_line(row: dict[str, Any]) -> bytes:
    """A line of JSON; half a surrogate pair, which UTF-8 cannot hold, stays as it was escaped."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"
