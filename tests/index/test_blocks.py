"""Blocks of whole lines: every line once, wherever reading starts; unusable lines; file names."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.index import blocks
from megatron_math.index.blocks import Block, LongLine, find_files, read_blocks

UNIT = 64


def lines_in(found: list[Block]) -> list[tuple[int, bytes | int]]:
    """(where it begins, the line without its end; of one that is too long its bytes)."""
    lines: list[tuple[int, bytes | int]] = []
    for block in found:
        if isinstance(block.content, LongLine):
            lines.append((block.begin, block.content.num_bytes))
            continue
        begin, content = block.begin, bytes(block.content)
        for line in content.removesuffix(b"\n").split(b"\n"):
            lines.append((begin, line))
            begin += len(line) + 1
        assert begin - (not content.endswith(b"\n")) == block.end
    return lines


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.binary(max_size=90).map(lambda b: b.replace(b"\n", b"x")), max_size=12),
    ends=st.booleans(),
    mark=st.booleans(),
    block_bytes=st.sampled_from([4, 8, 32, 64]),
    ahead_bytes=st.sampled_from([1, 7, 40]),
    most=st.sampled_from([3, 20, 50, 1000]),
)
def test_every_line_once_wherever_reading_starts(
    tmp_path: Path,
    lines: list[bytes],
    ends: bool,
    mark: bool,
    block_bytes: int,
    ahead_bytes: int,
    most: int,
) -> None:
    path, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    content = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    marked = (b"\xef\xbb\xbf" if mark else b"") + content
    if not mark and marked.startswith(b"\xef\xbb\xbf"):
        return
    path.write_bytes(marked)
    packed.write_bytes(gzip.compress(marked))
    expected: list[tuple[int, bytes]] = []
    begin = 3 if mark else 0
    for line in content.removesuffix(b"\n").split(b"\n") if content else []:
        expected.append((begin, line))
        begin += len(line) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        patch.setattr(blocks, "AHEAD_BYTES", ahead_bytes)
        whole = list(read_blocks(path, max_line_bytes=most))
        found = lines_in(whole)
        assert len(found) == len(expected)
        for (at, line), (true_begin, true_line) in zip(found, expected, strict=True):
            assert at == true_begin
            assert line == true_line or (line == len(true_line) > most)
        assert lines_in(list(read_blocks(packed, max_line_bytes=most))) == found
        size = path.stat().st_size
        by_unit = [
            lines_in(list(read_blocks(path, begin=at, stop=at + UNIT, max_line_bytes=most)))
            for at in range(0, size, UNIT)
        ]
        assert [line for unit in by_unit for line in unit] == found
        for number, block in enumerate(whole):  # going on behind any of them
            for file in (path, packed):
                rest = list(read_blocks(file, begin=block.end, max_line_bytes=most))
                assert lines_in(rest) == lines_in(whole[number + 1 :])


def test_a_long_line_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of 256 MiB against a limit of 4 MiB: what is held stays below three blocks."""
    import tracemalloc

    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        file.truncate(256 << 20)  # a sparse file: zeros
        file.seek(0, os.SEEK_END)
        file.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    found = list(read_blocks(path, max_line_bytes=4 << 20))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [type(block.content) for block in found] == [memoryview, LongLine, memoryview]
    assert found[1].content.num_bytes == (256 << 20) - 14 + 2
    assert bytes(found[2].content) == b'{"text": "b"}\n'
    assert most < 16 << 20


def test_parquet_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    table = pyarrow.table({"text": [f"row {i}" for i in range(1000)], "other": [1] * 1000})
    parquet.write_table(table, path, row_group_size=300)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    found = list(read_blocks(path, columns=["text", "absent"]))
    assert len(found) > 10
    assert found[0].content.schema.names == ["text"]
    assert [t for b in found for t in b.content["text"].to_pylist()] == table["text"].to_pylist()
    rest = [t for b in read_blocks(path, begin=found[4].end) for t in b.content["text"].to_pylist()]
    assert rest == table["text"].to_pylist()[found[4].end :]
    assert found[-1].disk_bytes == path.stat().st_size


def test_parquet_without_any_wanted_column(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"other": [1] * 7}), tmp_path / "x.parquet")
    found = list(read_blocks(tmp_path / "x.parquet", columns=["text"]))
    assert sum(block.content.num_rows for block in found) == 7


def test_find_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "c.parquet", "notes.md", "sub/d.json", "e\n ü.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.name for path in find_files(str(tmp_path), "x")]
    assert names == ["a.jsonl.gz", "b.jsonl", "c.parquet", "e\n ü.jsonl", "d.json"]
    assert len(find_files([str(tmp_path / "*.jsonl"), str(tmp_path / "sub")], "x")) == 3
    for patterns, message in (
        ([], "x: no paths"),
        (str(tmp_path / "*.csv"), "no file, folder or match"),
        (str(tmp_path / "notes.md"), "not of a kind read here"),
        ([str(tmp_path / "b.jsonl"), str(tmp_path / "b*.jsonl")], "listed twice"),
    ):
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            find_files(patterns, "x")
    (tmp_path / os.fsdecode(b"\xff.jsonl")).touch()
    with pytest.raises(UserError, match="is no UTF-8; rename the file"):
        find_files(str(tmp_path), "x")
    assert json.dumps(names)
