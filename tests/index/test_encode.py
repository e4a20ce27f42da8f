"""encode_files: the same bytes whatever the workers, lineage, sidecars, a full disk, reuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file
from megatron_math.index import blocks as blocks_module
from megatron_math.index import encode as encode_module
from megatron_math.index.blocks import find_files, read_blocks
from megatron_math.index.documents import Recipe, frame
from megatron_math.index.encode import Output, encode_files, reusable_sidecar
from megatron_math.index.record_ids import RecordIds
from megatron_math.tokenizer import Tokenizer


def write_corpus(path: Path, count: int, start: int = 0) -> Path:
    rows = [
        {"id": f"r{i}", "problem": f"{i} + {i}?" * (i % 7 + 1), "solution": f"It is {2 * i}."}
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(output: Output) -> list[bytes]:
    return [path.read_bytes() for path in output.paths]


def test_workers_do_not_change_a_byte(
    sentencepiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 3_000)  # dozens of blocks
    monkeypatch.setattr(encode_module, "BLOCK_BYTES", 3_000)
    files = [write_corpus(tmp_path / "a.jsonl", 700), write_corpus(tmp_path / "b.jsonl", 300, 700)]
    assert sum(1 for path in files for _ in read_blocks(path)) > 20
    results = []
    for num_workers in (1, 2, 3):
        output = Output(tmp_path / f"w{num_workers}")
        encode_files(files, [output], sentencepiece, append_eod=True, num_workers=num_workers)
        results.append(contents(output))
    assert results[0] == results[1] == results[2]
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 10_000_000)
    encode_files(files, [output], sentencepiece, append_eod=True)
    assert contents(output) == results[0]


def test_sidecar_and_lineage(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", 50)
    with path.open("a") as file:
        file.write('\n{"text": "plain"}\n{"text": "", "id": 7}\n')
    output = Output(tmp_path / "out" / "a_text_document")
    (sidecar,) = encode_files([path], [output], sentencepiece, append_eod=True)
    assert sidecar == json.loads(output.path(".json").read_text())
    assert (sidecar["documents"], sidecar["empty_documents"]) == (52, 1)
    assert sidecar["sources"][0] == {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "documents": 52,
    }
    for kind in ("bin", "idx"):
        part = output.path("." + kind)
        assert sidecar[kind] == {"bytes": part.stat().st_size, "sha256": sha256_file(part)}
    tokens = np.fromfile(output.path(".bin"), np.uint16)
    assert sidecar["tokens"] == len(tokens)
    assert (tokens == sentencepiece.eod_id).sum() == 52
    first = "Question: 0 + 0?\nSolution: It is 0."
    ends = np.flatnonzero(tokens == sentencepiece.eod_id)
    assert sentencepiece.decode(tokens[: ends[0]].tolist()) == first
    assert ends[-1] == ends[-2] + 1  # the document without text: one EOD
    ids = RecordIds(output.path(".ids"))
    assert [ids[i] for i in (0, 49, 50, 51)] == ["r0", "r49", "a.jsonl:52", "7"]
    assert len(ids) == 52
    with pytest.raises(IndexError, match="document 52 of 52"):
        ids[52]


def test_text_bytes_count_the_text(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "é€"}) + "\n" + '{"text": "a\\nb"}\n', encoding="utf-8")
    (sidecar,) = encode_files([path], [Output(tmp_path / "x")], sentencepiece, append_eod=True)
    assert sidecar["text_bytes"] == 5 + 3


@pytest.mark.parametrize(
    ("recipe", "row", "text"),
    [
        (Recipe(), {"text": "t"}, "t"),
        (Recipe(), {"problem": "p", "solution": "s"}, "Question: p\nSolution: s"),
        (Recipe(), {"input": "p", "output": "s"}, "Question: p\nSolution: s"),
        (Recipe(template="{solution}<-{problem}"), {"problem": "p", "solution": "s"}, "s<-p"),
        (Recipe(key="body"), {"text": "t", "body": "b"}, "b"),
    ],
)
def test_recipes(recipe: Recipe, row: dict, text: str) -> None:
    assert recipe.text_of(row, "here") == text


@pytest.mark.parametrize(
    ("recipe", "row", "message"),
    [
        (Recipe(template="{problem}{solution}"), {"text": "t"}, "a template is set"),
        (Recipe(), {"problem": "p"}, "needs 'text', or 'problem' and 'solution'"),
        (Recipe(), {"text": 3}, "'text' must be a string"),
        (Recipe(key="body"), {"text": "t"}, "no key 'body'"),
    ],
)
def test_rows_that_do_not_fit_their_recipe(recipe: Recipe, row: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"here: .*{message}"):
        recipe.text_of(row, "here")


@settings(max_examples=100, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8),
    bos_id=st.sampled_from([None, 98]),
    eod_id=st.sampled_from([None, 99]),
)
def test_frame_is_what_a_loop_would_do(
    documents: list[list[int]], bos_id: int | None, eod_id: int | None
) -> None:
    tokens = np.array([token for document in documents for token in document], np.int32)
    lengths = np.array([len(document) for document in documents], np.int32)
    framed, framed_lengths = frame(tokens, lengths, bos_id, eod_id)
    begin, end = ([] if i is None else [i] for i in (bos_id, eod_id))
    rows = [begin + document + end for document in documents]
    assert framed.tolist() == [token for row in rows for token in row]
    assert framed_lengths.tolist() == [len(row) for row in rows]
    assert framed_lengths.dtype == np.int32


def test_bos_where_the_tokenizer_asks_for_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", 5)
    (sidecar,) = encode_files([path], [Output(tmp_path / "x")], tokenizer, append_eod=True)
    first = np.fromfile(tmp_path / "x.bin", np.dtype(sidecar["dtype"]))[0]
    assert (first == tokenizer.bos_id) == tokenizer.adds_bos == sidecar["prepend_bos"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from megatron_math.index.encode import Output, encode_files
from megatron_math.tokenizer import load_tokenizer
tokenizer = load_tokenizer(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    encode_files([Path(sys.argv[2])], [Output(Path(sys.argv[3]))], tokenizer, append_eod=True)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(7)
"""


def test_a_full_disk_leaves_the_earlier_index(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk."""
    output = Output(tmp_path / "out" / "x")
    small, large = write_corpus(tmp_path / "s.jsonl", 50), write_corpus(tmp_path / "l.jsonl", 5000)
    encode_files([small], [output], sentencepiece, append_eod=True)
    before = contents(output)
    arguments = [str(sentencepiece.path), str(large), str(output.prefix)]
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 7, result.stderr
    assert "File too large" in result.stderr
    assert contents(output) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "x.bin", "x.ids", "x.idx", "x.json",
    ]  # fmt: skip
    encode_files([large], [output], sentencepiece, append_eod=True)  # control: it fits without
    assert contents(output) != before


def test_a_source_that_changes_meanwhile_is_refused(
    sentencepiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_corpus(tmp_path / "a.jsonl", 20)

    def read_and_change(file: Path) -> list[blocks_module.Block]:
        found = list(read_blocks(file))
        os.utime(file, ns=(1, 1))
        return found

    monkeypatch.setattr("megatron_math.index.encode.read_blocks", read_and_change)
    with pytest.raises(UserError, match="changed while it was being read"):
        encode_files([path], [Output(tmp_path / "x")], sentencepiece, append_eod=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl"]


def test_only_the_same_index_is_reused(
    sentencepiece: Tokenizer, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    from megatron_math.tokenizer import load_tokenizer

    path, output = write_corpus(tmp_path / "a.jsonl", 20), Output(tmp_path / "x")
    (sidecar,) = encode_files([path], [output], sentencepiece, append_eod=True)

    def reused(
        out: Output = output, tokenizer: Tokenizer = sentencepiece, append_eod: bool = True
    ) -> bool:
        found = reusable_sidecar([path], out, tokenizer, append_eod=append_eod)
        assert found in (None, sidecar)
        return found is not None

    other = Output(output.prefix, Recipe(template="{problem} {solution}"))
    assert reused()
    assert not reused(append_eod=False)
    assert not reused(out=other)
    assert not reused(tokenizer=load_tokenizer(tokenizer_files["TikTokenizer"]))
    content = path.read_text()
    path.write_text(content.replace("It is 2.", "It is 3."))
    assert not reused()
    path.write_text(content)
    assert reused()
    output.path(".bin").write_bytes(output.path(".bin").read_bytes()[:-2])
    assert not reused()


def test_blocks_keep_every_line_and_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"n": i, "pad": "x" * (i * 37 % 500)}) for i in range(1, 120)]
    lines[60] = ""  # a blank line is counted and is no document
    path.write_text("\n".join(lines))
    for block_bytes in (1, 7, 100, 10_000, 10**7):
        monkeypatch.setattr(blocks_module, "BLOCK_BYTES", block_bytes)
        found = list(read_blocks(path))
        rows = [(number, row["n"]) for block in found for number, row in block.rows()]
        assert rows == [(i, i) for i in range(1, 120) if i != 61]
        assert sum(block.disk_bytes for block in found) == path.stat().st_size


def test_find_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "c.parquet", "notes.md", "sub/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.name for path in find_files(str(tmp_path), "x")]
    assert names == ["a.jsonl.gz", "b.jsonl", "c.parquet", "d.json"]
    assert len(find_files([str(tmp_path / "*.jsonl"), str(tmp_path / "sub")], "x")) == 2
    for patterns, message in (
        ([], "x: no paths"),
        (str(tmp_path / "*.csv"), "no file, folder or match"),
        (str(tmp_path / "notes.md"), "not of a kind read here"),
        ([str(tmp_path / "b.jsonl"), str(tmp_path / "*.jsonl")], "listed twice"),
    ):
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            find_files(patterns, "x")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b[:10]])
def test_damaged_record_ids_are_refused(damage, sentencepiece: Tokenizer, tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "a.jsonl", 20)
    encode_files([path], [Output(tmp_path / "x")], sentencepiece, append_eod=True)
    ids = tmp_path / "x.ids"
    ids.write_bytes(damage(ids.read_bytes()))
    with pytest.raises(UserError, match="is no whole file of record ids"):
        RecordIds(ids)
