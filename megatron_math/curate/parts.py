"""Shards of curate: what a task of a job array finds out of its share of the lines.

A share is as many bytes as another's: whole files where they are packed, else stretches of lines.
20_curate/shards/<I>-of-<N>/ is a stage of its own; it holds for every piece what examine.py says of
its records, and the lines themselves where the file is packed. The merge reads these in the order
of the records, so that its result is that of one process. Bytes: docs/formats.md.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.shard import Shard
from megatron_math.curate.blocks import BLOCK_BYTES, is_packed, read_blocks
from megatron_math.curate.examine import Examined, Examiner
from megatron_math.curate.lines import Lines, Place
from megatron_math.curate.scan import name_by_line

PIECE_BYTES = 1 << 28
PACKED_WEIGHT = 4  # text by bytes on disk


@dataclass(frozen=True)
class Piece:
    """Lines of a file that begin at `begin` or later and before `stop` (None: the end)."""

    source: str
    path: Path
    name: str
    begin: int = 0
    stop: int | None = None


def pieces_of(files: dict[str, list[Path]], count: int) -> list[list[Piece]]:
    """The pieces of `count` shards, which are those of all records in their order."""
    sizes = [(source, path, path.stat().st_size) for source in files for path in files[source]]
    weights = [size * (PACKED_WEIGHT if is_packed(path) else 1) for _, path, size in sizes]
    bounds = [sum(weights) * number // count for number in range(count + 1)]
    shards: list[list[Piece]] = [[] for _ in range(count)]
    at = 0
    for number, ((source, path, _), weight) in enumerate(zip(sizes, weights, strict=True)):
        shard = min(bisect_right(bounds, at) - 1, count - 1)  # of its first byte
        if is_packed(path) or not weight:
            shards[shard].append(Piece(source, path, f"{number:06d}"))
        else:
            cuts = {0, weight, *range(0, weight, PIECE_BYTES)}
            cuts |= {bound - at for bound in bounds if 0 < bound - at < weight}
            for begin, stop in pairwise(sorted(cuts)):
                shard = bisect_right(bounds, at + begin) - 1
                end = stop if stop < weight else None
                name = f"{number:06d}-{begin:013d}"
                shards[shard].append(Piece(source, path, name, begin, end))
        at += weight
    return shards


def write_piece(piece: Piece, folder: Path, examiner: Examiner) -> list[Path]:
    """Examine a piece; returns the files, which are not written again where they are there."""
    table, copies = folder / f"{piece.name}.npz", folder / f"{piece.name}.jsonl"
    outputs = [table, copies] if is_packed(piece.path) else [table]
    if table.is_file():  # written last
        return outputs
    blocks = read_blocks(piece.path, piece.begin, piece.stop, source=piece.source)
    columns: dict[str, list[np.ndarray]] = {}
    num_records = num_lines = num_copied = id_bytes = 0

    def counted() -> Iterator[Any]:
        nonlocal num_lines
        for block in blocks:
            num_lines = block.lines_before + block.content.count(b"\n")
            yield block

    with atomic_open(copies, "wb") if is_packed(piece.path) else nullcontext() as copied:
        for found in examiner.examine_blocks(piece.source, counted()):
            lines = found.lines
            if lines.place is None:
                assert copied is not None
                lines = lines.copy(copies, num_copied, np.arange(len(lines)), copied.write)
            assert lines.place is not None
            at = lines.place.begin
            num_copied = lines.place.end
            hits = found.hits.copy()
            hits[:, 0] += num_records
            for name, column in {
                "begins": lines.begins + at,
                "ends": lines.ends + at,
                "numbers": lines.numbers,
                "has_id": lines.has_id,
                "id_text": lines.id_text,
                "id_ends": lines.id_offsets[1:] + id_bytes,
                "text_keys": found.text_keys,
                "url_keys": found.url_keys,
                "has_url": found.has_url,
                "bands": found.bands,
                "num_words": found.num_words,
                "hits": hits,
            }.items():
                columns.setdefault(name, []).append(column)
            num_records += len(lines)
            id_bytes += len(lines.id_text)
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    with atomic_open(table, "wb") as file:
        np.savez(file, num_lines=num_lines, **whole)
    return outputs


def read_piece(piece: Piece, folder: Path, lines_before: int) -> tuple[int, Iterator[Examined]]:
    """(lines of the piece, its records in blocks). lines_before: of its file."""
    with np.load(folder / f"{piece.name}.npz", allow_pickle=False) as table:
        columns = {name: table[name] for name in table.files}
    num_lines = int(columns.pop("num_lines"))
    return num_lines, _blocks(piece, folder, columns, lines_before)


def _blocks(
    piece: Piece, folder: Path, columns: dict[str, np.ndarray], lines_before: int
) -> Iterator[Examined]:
    if not columns:
        return
    file = folder / f"{piece.name}.jsonl" if is_packed(piece.path) else piece.path
    begins, ends = columns["begins"], columns["ends"]
    id_offsets = np.append(0, columns["id_ends"])
    at = 0
    while at < len(begins):
        stop = max(at + 1, int(np.searchsorted(ends, begins[at] + BLOCK_BYTES, side="right")))
        rows = slice(at, stop)
        place = Place(file, int(begins[at]), int(ends[stop - 1]))
        hits = columns["hits"]
        hits = hits[np.searchsorted(hits[:, 0], at) : np.searchsorted(hits[:, 0], stop)].copy()
        hits[:, 0] -= at
        lines = Lines(
            source=piece.source,
            path=piece.path,
            place=place,
            content=None,
            begins=begins[rows] - place.begin,
            ends=ends[rows] - place.begin,
            numbers=columns["numbers"][rows] + lines_before,
            has_id=columns["has_id"][rows],
            id_text=columns["id_text"][id_offsets[at] : id_offsets[stop]],
            id_offsets=id_offsets[at : stop + 1] - id_offsets[at],
        )
        if not is_packed(piece.path):
            name_by_line(lines)
        yield Examined(
            lines,
            columns["text_keys"][rows],
            columns["url_keys"][rows],
            columns["has_url"][rows],
            columns["bands"][rows],
            columns["num_words"][rows],
            hits,
        )
        at = stop


def read_shards(
    files: dict[str, list[Path]], folders: list[Path]
) -> Callable[[str], Iterator[Examined]]:
    """All records of a source, by its name, out of the folders of all shards."""
    pieces = [
        (folder, piece)
        for folder, some in zip(folders, pieces_of(files, len(folders)), strict=True)
        for piece in some
    ]

    def read(source: str) -> Iterator[Examined]:
        lines_before = 0
        for folder, piece in pieces:
            if piece.source == source:
                num_lines, found = read_piece(piece, folder, lines_before if piece.begin else 0)
                yield from found
                lines_before = num_lines + (lines_before if piece.begin else 0)

    return read


def shards_in(folder: Path) -> list[Shard]:
    """All shards of one split. UserError where there are none, or of several."""
    found = [re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in folder.glob("*")]
    counts = {int(match[2]) for match in found if match}
    if len(counts) != 1:
        raise UserError(
            f"{folder} holds {'no shards' if not counts else 'shards of several splits'} "
            f"({sorted(counts)}); run 'megatron-math curate --shard I/N' for every I of one N"
        )
    count = counts.pop()
    return [Shard(index, count) for index in range(count)]
