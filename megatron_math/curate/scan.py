"""A block of lines as records: where their lines are, and their texts in one buffer.

Lines that the native scanner takes are never seen by Python. Those that it does not take, or whose
members are not of the usual kinds, are read by base/records.py, which has the last word. (An
integer of more than 4,300 digits in a member that no record has is not met by it.)
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_math.base.records import Record, parse_line, record_from_row
from megatron_math.curate.blocks import Block
from megatron_math.curate.dedup import text_of
from megatron_math.curate.lines import Lines
from megatron_math.native.json_lines import Column, Kind, Scanned, scan_lines
from megatron_math.native.texts import ByteArray, Int64Array, Part, join_texts

KEYS = ("text", "problem", "solution", "answer", "input", "output", "meta")


def _table(*kinds: Kind) -> np.ndarray:
    return np.isin(np.arange(len(Kind)), kinds)


_NOTHING = _table(Kind.ABSENT, Kind.NULL)
_STRING = _table(Kind.STRING, Kind.NUL_STRING)
_META = _NOTHING | _table(Kind.OBJECT)
_ID = _STRING | _table(Kind.ABSENT, Kind.NUMBER)
_DIGITS = 1000  # Python makes no number of more than 4,300


@dataclass(frozen=True)
class Records:
    """The records of a block. text, offsets: what is searched of each (dedup.text_of), UTF-8, or
    with half a surrogate pair as three bytes. urls: `meta.url` of each, where it was asked for."""

    lines: Lines
    text: ByteArray
    offsets: Int64Array
    urls: list[Any] | None


@dataclass(frozen=True)
class _Odd:
    """A line that Python read."""

    line: int
    begin: int
    end: int
    record: Record
    has_id: bool


def scan(block: Block, source: str, *, with_urls: bool = False) -> Records:
    """Where reading did not begin with the file, numbers of lines begin there, and records without
    an id have none yet: `name_by_line`. Raises UserError, naming file and line, at the first line
    that is no record."""
    found = scan_lines(block.content, KEYS)
    kinds = {key: found.columns[key].kinds for key in KEYS}
    is_two = ~(_NOTHING[kinds["input"]] | _NOTHING[kinds["output"]])
    text = np.where(is_two, Kind.ABSENT, kinds["text"])
    problem = np.where(is_two, kinds["input"], kinds["problem"])
    solution = np.where(is_two, kinds["output"], kinds["solution"])
    is_text = _STRING[text]
    is_plain = is_text | (_NOTHING[text] & _STRING[problem] & _STRING[solution])
    for kind in (problem, solution, kinds["answer"]):
        is_plain &= _STRING[kind] | _NOTHING[kind]
    is_plain &= _META[kinds["meta"]] & _ID[found.ids.kinds]
    is_plain &= (found.ids.kinds != Kind.NUMBER) | (np.diff(found.ids.offsets) <= _DIGITS)

    odd = _read_odd(block, found, np.flatnonzero(~is_plain))
    rows = np.flatnonzero(is_plain)
    order = np.argsort(np.append(found.rows[rows], _numbers(one.line for one in odd)))
    plain = np.append(rows, np.full(len(odd), -1))[order]  # row of the scan, or -1
    other = np.append(np.full(len(rows), -1), np.arange(len(odd)))[order]  # number of an odd one

    def of(chosen: np.ndarray) -> np.ndarray:
        """Of each record its row of the scan, where it is chosen, else -1."""
        return np.where((plain >= 0) & chosen[plain], plain, -1) if len(chosen) else plain

    if not odd and is_text.all():
        texts = (found.columns["text"].text, found.columns["text"].offsets)
    else:
        has_two = of(~is_text & is_two)
        has_problem = of(~is_text & ~is_two)
        both = np.where(has_two >= 0, has_two, has_problem)
        parts = [
            _part(found.columns["text"], of(is_text)),
            _pool([_encode(text_of(one.record)) for one in odd], other),
            _part(found.columns["problem"], has_problem),
            _part(found.columns["input"], has_two),
            _pool([b"\n"], np.where(both >= 0, 0, -1)),
            _part(found.columns["solution"], has_problem),
            _part(found.columns["output"], has_two),
        ]
        texts = join_texts(parts, len(plain))[:2]

    spans = found.spans[rows]
    lines = Lines(
        source=source,
        path=block.path,
        place=block.place,
        content=memoryview(block.content),
        begins=np.append(spans[:, 0], _numbers(one.begin for one in odd))[order],
        ends=np.append(spans.sum(1), _numbers(one.end for one in odd))[order],
        numbers=np.append(found.rows[rows], _numbers(one.line for one in odd))[order],
        has_id=np.append(
            found.ids.kinds[rows] != Kind.ABSENT, np.array([one.has_id for one in odd], bool)
        )[order],
        id_text=texts[0][:0],
        id_offsets=np.zeros(len(plain) + 1, np.int64),
    )
    lines.numbers += block.lines_before + 1
    lines.id_text, lines.id_offsets = _ids(found, lines, plain, odd, other)
    if not block.whence:
        name_by_line(lines)
    urls = _urls(found.columns["meta"], plain, odd, other) if with_urls else None
    return Records(lines, *texts, urls)


def name_by_line(lines: Lines) -> None:
    """Put in `<file>:<line>` for the ids that the lines lack; their numbers must be the file's."""
    nameless = np.flatnonzero(~lines.has_id)
    if not len(nameless):
        return
    names = [f"{lines.path.name}:{lines.numbers[row]}" for row in nameless.tolist()]
    own, choice = np.arange(len(lines)), np.full(len(lines), -1)
    own[nameless] = -1
    choice[nameless] = np.arange(len(nameless))
    parts = [Part(lines.id_text, lines.id_offsets, own), _pool(list(map(_encode, names)), choice)]
    lines.id_text, lines.id_offsets, _ = join_texts(parts, len(lines))


def _read_odd(block: Block, found: Scanned, rows: np.ndarray) -> list[_Odd]:
    """What Python makes of the lines that were refused and of these rows, in their order."""
    lines = [(one.line, one.byte, one.num_bytes) for one in found.bad]
    lines += [
        (line, begin, num_bytes)
        for line, (begin, num_bytes) in zip(
            found.rows[rows].tolist(), found.spans[rows].tolist(), strict=True
        )
    ]
    odd = []
    for line, begin, num_bytes in sorted(lines):
        content = block.content[begin : begin + num_bytes + 1]  # errors show the line feed, too
        if not content.strip():
            continue
        number = block.first_line + line
        row = parse_line(content, block.path, number)
        where = f"{block.path}, line {number}"
        record = record_from_row(row, default_id="", default_source="", where=where)
        odd.append(_Odd(line, begin, begin + num_bytes, record, "id" in row))
    return odd


def _ids(
    found: Scanned, lines: Lines, plain: np.ndarray, odd: list[_Odd], other: np.ndarray
) -> tuple[ByteArray, Int64Array]:
    """Ids of the records that have one; numbers are spelled as Python does."""
    kinds = found.ids.kinds
    is_number = kinds == Kind.NUMBER
    if not odd and not is_number.any():
        return found.ids.text, found.ids.offsets
    spelled = [_encode(one.record.id) if one.has_id else b"" for one in odd]
    choice = other.copy()
    for place, row in enumerate(plain.tolist()):
        if row >= 0 and is_number[row]:
            choice[place] = len(spelled)
            spelled.append(str(json.loads(found.ids.value(row))).encode())
    own = np.where((plain >= 0) & (choice < 0), plain, -1)
    return join_texts([_part(found.ids, own), _pool(spelled, choice)], len(plain))[:2]


def _urls(meta: Column, plain: np.ndarray, odd: list[_Odd], other: np.ndarray) -> list[Any]:
    """`meta.url` of every record, whatever it is; only strings count."""
    has_meta = np.append(meta.kinds == Kind.OBJECT, False)[plain]  # the last one stands for -1
    metas = join_texts(
        [_part(meta, np.where(has_meta, plain, -1)), _pool([b"\n"], np.zeros(len(plain), int))],
        len(plain),
    )[0]
    scanned = scan_lines(metas, ["url"])
    column = scanned.columns["url"]
    urls: list[Any] = [None] * len(plain)
    for row, line in enumerate(scanned.rows.tolist()):
        if column.kinds[row] in (Kind.STRING, Kind.NUL_STRING):
            urls[line] = column.value(row).decode()
    whole = [scanned.rows[row] for row in np.flatnonzero(column.kinds == Kind.HALF_PAIR)]
    for place in [*whole, *(one.line for one in scanned.bad)]:
        urls[place] = json.loads(meta.value(int(plain[place]))).get("url")
    for place in np.flatnonzero(other >= 0).tolist():
        urls[place] = odd[other[place]].record.meta.get("url")
    return urls


def _part(column: Column, choice: np.ndarray) -> Part:
    return Part(column.text, column.offsets, choice)


def _pool(strings: list[bytes], choice: np.ndarray) -> Part:
    offsets = np.cumsum([0, *map(len, strings)], dtype=np.int64)
    return Part(np.frombuffer(b"".join(strings), np.uint8), offsets, choice)


def _numbers(values: Any) -> Int64Array:
    return np.array(list(values), np.int64)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
