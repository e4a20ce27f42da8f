"""Lines that no Python reads are the records that base/records.py makes of them, and its errors."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record, read_records
from megatron_math.curate import blocks
from megatron_math.curate.blocks import count_lines, read_blocks
from megatron_math.curate.dedup import text_of
from megatron_math.curate.scan import Records, scan

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["\ud800", "a\udc00b", "\0", "😀", "\\ud83d", '"', "\\", "\r", "\u2028", "é"]),
)
VALUE = st.one_of(
    TEXT,
    st.none(),
    st.integers(-5, 10**20),
    st.floats(),
    st.booleans(),
    st.lists(TEXT, max_size=2),
    st.dictionaries(st.sampled_from(["url", "id", "x"]), TEXT, max_size=3),
)
ROW = st.one_of(
    st.fixed_dictionaries({"text": TEXT}, optional={"id": TEXT, "meta": VALUE, "answer": TEXT}),
    st.fixed_dictionaries({"problem": TEXT, "solution": TEXT}, optional={"id": VALUE}),
    st.fixed_dictionaries({"input": TEXT, "output": TEXT}, optional={"text": VALUE, "id": VALUE}),
    st.dictionaries(
        st.sampled_from(
            ["id", "source", "text", "problem", "solution", "answer", "input", "output", "meta"]
        ),
        VALUE,
        max_size=6,
    ),
)


@st.composite
def json_lines(draw) -> bytes:
    row, plain = draw(ROW), draw(st.booleans())
    spaced = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "  :")]))
    line = json.dumps(row, ensure_ascii=plain, separators=spaced)
    if draw(st.integers(0, 9)) == 0:  # the last of equal keys counts
        line = '{"text": "before", ' + line[1:] if row else line
    try:
        encoded = line.encode()
    except UnicodeEncodeError:
        encoded = json.dumps(row).encode()
    return (
        draw(st.sampled_from([b"", b" ", b"\t"]))
        + encoded
        + draw(st.sampled_from([b"", b"\r", b" ", b" \r"]))
    )


ODD_LINES = st.sampled_from(
    [b"", b"  ", b"\r", b"\x0b", b"\x0c ", b'{"text": "a"}']
    + [b"{", b"[]", b"7", b'{"text": "\xff"}', b'\xef\xbb\xbf{"text": "a"}', b'{"text": "a"} x']
    + [b'{"text": ' + b"[" * 200 + b"]" * 200 + b"}"]
    + [b'{"text": "a", "id": ' + b"9" * 5000 + b"}", b'{"text": "a", "id": NaN}']
    + [b'{"text": "a", "x": ' + b"[" * 150 + b"]" * 150 + b"}", b'{"id": "\\ud800", "text": "a"}']
    + [b'{"text": "a", "meta": {"url": "\\ud800"}}', b'{"text": "a", "meta": 0, "id": -0}']
)
FILE = st.lists(st.one_of(json_lines(), json_lines(), ODD_LINES), max_size=8)


def said(read) -> tuple[list[Any], str]:
    """What is read before the first error, and the error."""
    found: list[Any] = []
    try:
        for one in read():
            found.append(one)
    except UserError as error:
        return found, str(error)
    return found, ""


def same(found: list[Records], expected: list[Record]) -> None:
    """All that is said of each record; found: of the blocks of a file."""
    begin = 0
    for records in found:
        lines = records.lines
        some = expected[begin : begin + len(lines)]
        begin += len(lines)
        assert [lines.record(row) for row in range(len(lines))] == some
        assert [lines.name(row)["id"] for row in range(len(lines))] == [one.id for one in some]
        texts = [
            records.text[first:end].tobytes()
            for first, end in zip(records.offsets[:-1], records.offsets[1:], strict=True)
        ]
        assert texts == [text_of(one).encode("utf-8", "surrogatepass") for one in some]
        assert records.urls == [one.meta.get("url") for one in some]
    assert begin == len(expected)


@given(FILE, st.booleans(), st.sampled_from(["", "x"]))
@example([b'{"text": "a"}', b"", b'{"id": 1, "text": "b"}\r', b'{"a": 1}'], False, "")
@settings(max_examples=400, deadline=None)
def test_records_and_errors_are_those_of_the_reader(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool, source: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "some.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ends else b""))
    expected, error = said(lambda: read_records(path, source="s"))
    expected = [Record(**{**vars(one), "source": "s"}) for one in expected]
    found, our_error = said(
        lambda: [scan(block, "s", with_urls=True) for block in read_blocks(path)]
    )
    assert our_error == error
    if not error:
        same(found, expected)


@given(FILE)
@settings(max_examples=100, deadline=None)
def test_a_kept_line_is_the_line_with_its_id(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "kept.jsonl"
    path.write_bytes(b"\n".join(lines))
    expected, error = said(lambda: read_records(path, source="s"))
    if error or not expected:
        return
    out, numbers = io.BytesIO(), []
    for block in read_blocks(path):
        found = scan(block, "s").lines
        found.write(out, np.arange(len(found)))
        numbers += found.numbers.tolist()
    written = out.getvalue()
    again = path.with_name("kept.again.jsonl")
    again.write_bytes(written)
    assert list(read_records(again, source="s")) == expected
    for line, number in zip(written.split(b"\n")[:-1], numbers, strict=True):
        before = lines[number - 1]
        assert line == before or line.endswith(before.split(b"{", 1)[1])


def test_an_integer_that_python_does_not_take_is_nobodys_business(tmp_path: Path) -> None:
    """The one line that base/records.py refuses and that stays; whoever reads it names it."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "x": ' + b"9" * 5000 + b"}")
    (block,) = read_blocks(path)
    lines = scan(block, "s").lines
    for read in (lambda: lines.record(0), lambda: list(read_records(path))):
        with pytest.raises(UserError, match=r"a\.jsonl, line 1: not a line of JSON"):
            read()


@pytest.mark.parametrize("block_bytes", [7, 64, 1 << 21])
def test_blocks_and_stretches_give_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    content = b"".join(b"x" * (n * 7 % 40) + b"\n" for n in range(60)) + b"the last"
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    whole = list(read_blocks(path))
    assert b"".join(block.content for block in whole) == content
    for block in whole:
        assert content[block.begin :].startswith(block.content)
        assert block.first_line == content[: block.begin].count(b"\n") + 1
    for cut in range(0, len(content) + 2, 3):
        parts = [*read_blocks(path, 0, cut), *read_blocks(path, cut)]
        assert b"".join(block.content for block in parts) == content, cut
        for block in parts:
            assert block.first_line == content[: block.begin].count(b"\n") + 1
    assert count_lines(path, 100) == content[:100].count(b"\n")


def test_packed_files_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "1", "text": "a"}\n{"text": "b"}'))
    found = list(read_blocks(path))
    assert all(block.place is None for block in found)
    same([scan(b, "s", with_urls=True) for b in found], list(read_records(path, source="s")))
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:15] + b"??" + whole[17:], b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.jsonl\.gz is no whole gzip file"):
            list(read_blocks(path))
