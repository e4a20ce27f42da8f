"""tools/preprocess_data.py: core's bytes on real data, and clean refusals."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.index.record_ids import RecordIds
from megatron_math.tokenizer import Tokenizer

Corpus = tuple[str, list[str]]
CORPORA: list[Corpus] = [
    ("gsm8k/test.jsonl", ["question", "answer"]),
    ("jiuzhang3/cot_pretrain_data_sampled.jsonl", ["input", "output"]),
]


def preprocess(
    repository: Path, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / "tools" / "preprocess_data.py", *arguments]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def flags(tokenizer: Tokenizer) -> list[str]:
    return ["--tokenizer-type", tokenizer.kind, "--tokenizer-model", str(tokenizer.path)]


def core_builds(prefix: Path, rows: list[list[int]], vocabulary_size: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocabulary_size))
    for row in rows:
        builder.add_document(torch.tensor(row, dtype=torch.int64), [len(row)])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("corpus", CORPORA, ids=["gsm8k", "jiuzhang3"])
def test_core_writes_the_same_bytes(
    corpus: Corpus, tokenizer: Tokenizer, shared_data: Path, repository: Path, tmp_path: Path
) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    name, keys = corpus
    result = preprocess(
        repository, "--input", shared_data / name, "--json-keys", *keys, "--append-eod",
        "--output-prefix", tmp_path / "ours", *flags(tokenizer), "--log-interval", "500",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (shared_data / name).read_text().split("\n") if line]
    opening = [tokenizer.bos_id] if tokenizer.bos_id is not None and tokenizer.adds_bos else []
    for key in keys:
        rows = [[*opening, *tokenizer.encode(r[key]), tokenizer.eod_id] for r in records]
        core_builds(tmp_path / "core", rows, tokenizer.size)
        for suffix in (".bin", ".idx"):
            ours = tmp_path / f"ours_{key}_document{suffix}"
            assert ours.read_bytes() == (tmp_path / f"core{suffix}").read_bytes(), (key, suffix)
        dataset = IndexedDataset(str(tmp_path / f"ours_{key}_document"))
        assert len(dataset) == len(dataset.document_indices) - 1 == len(records)
        text = tokenizer.decode(dataset[17].tolist())
        assert text == records[17][key]
        assert f"{len(records)} lines = {len(records)} written + 0 empty + 0 q" in result.stderr
    assert "tokens/s" in result.stderr


def test_without_append_eod_there_is_none(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.json"
    corpus.write_text('{"text": "one two"}\n\n{"text": ""}\n{"text": "three"}')
    arguments = ["--input", corpus, "--output-prefix", tmp_path / "x", *flags(sentencepiece)]
    result = preprocess(repository, *arguments)
    assert result.returncode == 2
    assert "give --append-eod or --no-append-eod" in result.stderr
    assert not list(tmp_path.glob("x*"))
    result = preprocess(repository, *arguments, "--no-append-eod")
    assert result.returncode == 0, result.stderr
    core_builds(tmp_path / "core", [sentencepiece.encode(t) for t in ("one two", "three")], 32_000)
    for suffix in (".bin", ".idx"):
        ours = (tmp_path / f"x_text_document{suffix}").read_bytes()
        assert ours == (tmp_path / f"core{suffix}").read_bytes()
    assert "4 lines = 2 written + 2 empty + 0 quarantined" in result.stderr


GOOD = '{"text": "a good line"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD * 3 + "not json\n" + GOOD, "line 4: not JSON"),
        (GOOD * 90_000 + "not json\n" * 91, "line 90001: not JSON"),  # two blocks
        (GOOD + '{"text": "cut', "line 2: not JSON"),
        (GOOD + '{"body": "x"}\n', "line 2: no key 'text'"),
        (GOOD + '{"text": ["a"]}\n', "line 2: key 'text' is no string"),
        (GOOD + '{"text": null}\n', "line 2: key 'text' is no string"),
        (GOOD + '["text"]\n', "line 2: not an object"),
        (GOOD + '{"text": "\\ud800"}\n', "line 2: half a surrogate pair"),
        (GOOD + '{"text": "\udce9"}\n', "line 2: invalid UTF-8"),
        (GOOD + '{"text": "\\u0000"}\n', "line 2: NUL character"),
        (GOOD + "[" * 9000 + "\n", "line 2: nested deeper than 128"),
        (GOOD + '\ufeff{"text": "x"}\n', "line 2: byte order mark"),
        ("\n\n", "no documents in"),
    ],
)
def test_a_bad_line_is_named_and_leaves_only_its_name(
    content: str, message: str, sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(content, encoding="utf-8", errors="surrogateescape")
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_text_document.bin").write_bytes(b"an earlier result")
    arguments = [
        "--input", corpus, "--output-prefix", out / "x", "--append-eod", *flags(sentencepiece),
    ]  # fmt: skip
    result = preprocess(repository, *arguments)
    assert result.returncode == 2, result.stderr
    assert str(corpus) in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    listed = [] if content.isspace() else ["x_quarantine.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == sorted(["x_text_document.bin", *listed])
    assert (out / "x_text_document.bin").read_bytes() == b"an earlier result"
    if listed:
        result = preprocess(repository, *arguments, "--max-bad", "0.5")
        assert result.returncode == 0, result.stderr
        bad = [json.loads(line) for line in (out / "x_quarantine.jsonl").open()]
        assert {row["file"] for row in bad} == {str(corpus)}
        assert f"line {bad[0]['line']}: {bad[0]['reason']}".startswith(message)
        lines = len(content.split("\n")) - content.endswith("\n")
        assert (
            f"{lines} lines = {lines - len(bad)} written + 0 empty + {len(bad)} q" in result.stderr
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--input", "absent.jsonl"], "no file, folder or match for 'absent.jsonl'"),
        (["--tokenizer-model", "absent.model"], "absent.model does not exist"),
        (["--tokenizer-type", "TikTokenizer"], "base64 rank"),
        (["--tokenizer-type", "BertWordPieceLowerCase"], "invalid choice"),
        (["--json-keys", "text", "text"], "names a key twice"),
        (["--workers", "0"], "--workers must be 1 or more"),
        (["--input", "corpus.txt"], "not of a kind read here"),
        (["--shard", "3/3"], "a shard is I/N with I from 0 to N - 1"),
        (["--max-bad", "2"], "a share of all lines"),
        (["--max-line-bytes", "100"], "--max-line-bytes must be 2097152 or more"),
        (["--chat", "--template", "default"], "give one of them"),
        (["--chat", "--json-keys", "a"], "--json-keys has no effect"),
        (["--template", "{problem}"], "a template holds {problem} and {solution}"),
        (["--merge"], "has no shards; write them with --shard I/N first"),
    ],
)
def test_bad_usage_is_a_sentence_and_code_2(
    changes: list[str], message: str, sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "corpus.jsonl").write_text(GOOD)
    (tmp_path / "corpus.txt").write_text(GOOD)
    changes = [str(tmp_path / c) if c.endswith((".jsonl", ".txt")) else c for c in changes]
    message = message.replace("absent.jsonl", str(tmp_path / "absent.jsonl"))
    result = preprocess(
        repository, "--input", tmp_path / "corpus.jsonl", "--output-prefix", tmp_path / "x",
        "--append-eod", *flags(sentencepiece), *changes,
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("x_*"))


def test_compressed_shards_and_globs(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    """Plain, gzip, zstandard and parquet shards hold one corpus, in the order of their names."""
    import pyarrow
    from pyarrow import parquet

    lines = [json.dumps({"text": f"document number {i}", "id": f"d{i}"}) + "\n" for i in range(40)]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_text("".join(lines[:10]))
    with gzip.open(shards / "b.jsonl.gz", "wt") as file:
        file.write("".join(lines[10:15]))
    with gzip.open(shards / "b.jsonl.gz", "at") as file:  # a second member, as pigz and cat make
        file.write("".join(lines[15:20]))
    with pyarrow.output_stream(str(shards / "c.jsonl.zst"), compression="zstd") as file:
        file.write("".join(lines[20:30]).encode())
    rows = [json.loads(line) for line in lines[30:]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), shards / "d.parquet", row_group_size=3)
    for name, corpus in (("one", tmp_path / "all.jsonl"), ("many", shards), ("glob", shards / "*")):
        result = preprocess(
            repository, "--input", corpus, "--output-prefix", tmp_path / name, "--append-eod",
            *flags(sentencepiece),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    for suffix in (".bin", ".idx", ".ids"):
        one, many, by_glob = (
            (tmp_path / f"{name}_text_document{suffix}").read_bytes()
            for name in ("one", "many", "glob")
        )
        assert many == by_glob
        assert one == many or suffix == ".ids"  # which names other files
    ids = RecordIds(tmp_path / "many_text_document.ids")
    assert [ids[i] for i in range(len(ids))] == [f"d{i}" for i in range(40)]
    assert ids.place(17) == (str(shards / "b.jsonl.gz"), 8)
    sidecar = json.loads((tmp_path / "many_text_document.json").read_text())
    assert [source["documents"] for source in sidecar["sources"]] == [10, 10, 10, 10]


def test_an_archive_that_is_cut_is_refused(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 500)[:-6])
    result = preprocess(
        repository, "--input", path, "--output-prefix", tmp_path / "out", "--append-eod",
        "--max-bad", "1", *flags(sentencepiece),
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert f"{path} is damaged or not gzip: it ends too early" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_problems_and_solutions_have_roles(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "solution": "It is 2."}\n')
    result = preprocess(
        repository, "--input", path, "--output-prefix", tmp_path / "x", "--append-eod",
        "--template", "Q: {problem}\nA: {solution}", *flags(sentencepiece),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    index = IndexedDocuments(tmp_path / "x_text_document")
    ids, roles = index.document(0).tolist(), index.roles(0, 0, int(index.lengths_D[0])).tolist()
    assert sentencepiece.decode(ids[:-1]) == "Q: What is 1 + 1?\nA: It is 2."
    first = roles.index(ROLES["solution"])
    assert roles == [ROLES["prompt"]] * first + [ROLES["solution"]] * (len(roles) - first)
    assert sentencepiece.decode(ids[first:-1]) == "It is 2."


def test_a_slurm_array_and_a_merge_are_one_run(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    """The environment of a job array decides the shard; units are whole files here."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        rows = [{"text": f"document {number} {i}"} for i in range(50)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "2.jsonl").open("a").write("oops\n")
    common = ["--input", folder, "--append-eod", "--max-bad", "0.1", *flags(sentencepiece)]
    result = preprocess(repository, *common, "--output-prefix", tmp_path / "whole" / "x")
    assert result.returncode == 0, result.stderr
    for task in (4, 5, 6):
        array = {"ID": str(task), "COUNT": "3", "MIN": "4", "MAX": "6"}
        environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
        result = preprocess(
            repository, *common, "--output-prefix", tmp_path / "parts" / "x", **environment
        )
        assert result.returncode == 0, result.stderr
        assert f"shard {task - 4} of 3, as the SLURM job array says" in result.stderr
    result = preprocess(repository, *common, "--output-prefix", tmp_path / "parts" / "x", "--merge")
    assert result.returncode == 0, result.stderr
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes(), path.name
