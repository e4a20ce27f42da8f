"""Records that wait for a later pass: where their lines lie, and what was found in them.

Lines of plain files stay where they are; those of packed files and changed ones are copied. Memory:
some 30 bytes a record and its id, and a quarter of a gigabyte of texts.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from megatron_math.base.files import naming
from megatron_math.curate.blocks import Block
from megatron_math.curate.examine import Examined
from megatron_math.curate.lines import Lines, Place, read_at
from megatron_math.curate.scan import scan
from megatron_math.native.row_search import flatten
from megatron_math.native.texts import ByteArray, Int64Array

REMEMBERED_BYTES = 1 << 28


class Parked:
    """Records are numbered from 0 in the order in which they came. folder: where copies go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blocks: list[tuple[Lines, Int64Array]] = []  # without content; hits
        self._begins: list[int] = []  # number of each block's first record
        self._count = 0
        self._texts: dict[int, bytes] = {}
        self._text_bytes = 0

    def add(self, found: Examined, rows: Int64Array) -> None:
        """Some records of a block, by rising row."""
        if not len(rows):
            return
        lines = found.lines
        if lines.place is not None and not lines.changed:
            lines = lines.select(rows)
        else:
            file = self._folder / f"{lines.source}.jsonl"
            with naming(file), open(file, "ab") as copies:
                lines = lines.copy(file, copies.tell(), rows, copies.write)
        row_of = np.full(len(found.lines), -1)
        row_of[rows] = np.arange(len(rows))
        hits = found.hits.copy()
        hits[:, 0] = row_of[hits[:, 0]]
        self._blocks.append((replace(lines, content=None), hits[hits[:, 0] >= 0]))
        self._begins.append(self._count)
        self._count += len(rows)

    def blocks(self, source: str) -> Iterator[tuple[int, Lines, Int64Array]]:
        """(number of the first record, lines, hits) of all records of a source, in their order."""
        for begin, (lines, hits) in zip(self._begins, self._blocks, strict=True):
            if lines.source == source:
                yield begin, replace(lines), hits  # a copy: its content goes when it is done with

    def name(self, number: int) -> dict[str, str]:
        block = bisect_right(self._begins, number) - 1
        return self._blocks[block][0].name(number - self._begins[block])

    def _place(self, number: int) -> Place:
        block = bisect_right(self._begins, number) - 1
        lines, row = self._blocks[block][0], number - self._begins[block]
        assert lines.place is not None, lines.path
        at = lines.place.begin
        return Place(lines.place.file, at + int(lines.begins[row]), at + int(lines.ends[row]))

    def texts(self, numbers: Int64Array) -> tuple[ByteArray, Int64Array]:
        """What is searched of some records, by rising number: UTF-8, and where each begins."""
        if self._text_bytes > REMEMBERED_BYTES:
            self._texts, self._text_bytes = {}, 0
        wanted = numbers.tolist()
        if missing := [number for number in wanted if number not in self._texts]:
            self._read(missing)
        return flatten([self._texts[number] for number in wanted])

    def _read(self, numbers: list[int]) -> None:
        """Put texts by: those of a group of near-duplicates are asked for again and again."""
        lines: list[bytes] = []
        for file, places in groupby(map(self._place, numbers), lambda place: place.file):
            with naming(file), open(file, "rb", buffering=0) as opened:
                lines += [read_at(opened.fileno(), place) for place in places]
        block = Block(self._folder, 0, b"\n".join(lines), 0, is_packed=True)
        found = scan(block, "")  # lines that were records are records
        for number, (begin, end) in zip(numbers, pairwise(found.offsets.tolist()), strict=True):
            self._texts[number] = found.text[begin:end].tobytes()
        self._text_bytes += len(found.text)
