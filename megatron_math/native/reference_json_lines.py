"""The readable twin of `json_lines`: Python's own json, a line at a time."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_math.native.json_lines import BadLine, Column, Kind, Scanned

MAX_DEPTH = 128


class _Literal(str):
    """A number as it is spelled."""


def scan_lines(block: bytes, keys: Sequence[str]) -> Scanned:
    """As `json_lines.scan_lines`; only what `reason` says behind a colon differs, and the JSON of
    values that are no strings is spelled as json.dumps does."""
    lines = block.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    rows: list[int] = []
    spans: list[tuple[int, int]] = []
    found: list[dict[str, Any]] = []
    bad: list[BadLine] = []
    num_blank = begin = 0
    for number, line in enumerate(lines):
        if not line.strip(b" \t\r"):
            num_blank += 1
        else:
            row = _read_row(line)
            if isinstance(row, dict):
                rows.append(number)
                spans.append((begin, len(line)))
                found.append(row)
            else:
                bad.append(BadLine(number, begin, len(line), row))
        begin += len(line) + 1
    return Scanned(
        num_lines=len(lines),
        num_blank=num_blank,
        rows=np.array(rows, np.int64),
        spans=np.array(spans, np.int64).reshape(-1, 2),
        columns={key: _column([_value(row, key) for row in found]) for key in keys},
        ids=_column([_identity(row) for row in found]),
        bad=bad,
    )


def _read_row(line: bytes) -> dict[str, Any] | str:
    """The row, or the reason why there is none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "invalid UTF-8"
    if text.startswith("\ufeff"):
        return "byte order mark"
    try:
        row = json.loads(text, parse_int=_Literal, parse_float=_Literal, parse_constant=_Literal)
    except RecursionError:
        return f"nested deeper than {MAX_DEPTH}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error}"
    if _depth(row) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH}"
    if not isinstance(row, dict):
        return "not an object"
    return "half a surrogate pair" if _identity(row)[0] == Kind.HALF_PAIR else row


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _value(row: dict[str, Any], key: str) -> tuple[Kind, bytes]:
    if key not in row:
        return Kind.ABSENT, b""
    value = row[key]
    if isinstance(value, _Literal):
        return Kind.NUMBER, value.encode()
    if isinstance(value, str):
        try:
            text = value.encode("utf-8")
        except UnicodeEncodeError:
            return Kind.HALF_PAIR, b""
        return (Kind.NUL_STRING if "\0" in value else Kind.STRING), text
    if value is None:
        return Kind.NULL, b""
    kinds = {bool: Kind.BOOL, list: Kind.ARRAY, dict: Kind.OBJECT}
    return kinds[type(value)], json.dumps(value).encode()


def _identity(row: dict[str, Any]) -> tuple[Kind, bytes]:
    kind, text = _value(row, "id")
    named = kind in (Kind.STRING, Kind.NUL_STRING, Kind.NUMBER)
    return kind, text if named else b""


def _column(values: list[tuple[Kind, bytes]]) -> Column:
    texts = [text for _, text in values]
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    kinds = np.array([kind for kind, _ in values], np.uint8)
    return Column(np.frombuffer(b"".join(texts), np.uint8), offsets, kinds)
