"""tools/preprocess_data.py: core's bytes on real data, and clean refusals."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_math.tokenizer import Tokenizer

Corpus = tuple[str, list[str]]
CORPORA: list[Corpus] = [
    ("gsm8k/test.jsonl", ["question", "answer"]),
    ("jiuzhang3/cot_pretrain_data_sampled.jsonl", ["input", "output"]),
]


def preprocess(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / "tools" / "preprocess_data.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


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
    assert "of the input" in result.stderr
    assert "tokens/s" in result.stderr


def test_without_append_eod_there_is_none(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.json"
    corpus.write_text('{"text": "one two"}\n\n{"text": ""}\n{"text": "three"}')
    result = preprocess(
        repository, "--input", corpus, "--output-prefix", tmp_path / "x", *flags(sentencepiece)
    )
    assert result.returncode == 0, result.stderr
    core_builds(
        tmp_path / "core", [sentencepiece.encode(t) for t in ("one two", "", "three")], 32_000
    )
    for suffix in (".bin", ".idx"):
        ours = (tmp_path / f"x_text_document{suffix}").read_bytes()
        assert ours == (tmp_path / f"core{suffix}").read_bytes()
    assert "1 documents have no text" in result.stderr


GOOD = '{"text": "a good line"}\n'


@pytest.mark.parametrize(
    ("workers", "content", "message"),
    [
        ("1", GOOD * 3 + "not json\n" + GOOD, "line 4: not a line of JSON"),
        ("2", GOOD * 90_000 + "not json\n", "line 90001: not a line of JSON"),  # two blocks
        ("1", GOOD + '{"text": "cut', "line 2: not a line of JSON"),
        ("1", GOOD + '{"body": "x"}\n', r"line 2: no key 'text'; found the keys ['body']"),
        ("1", GOOD + '{"text": ["a"]}\n', "line 2: 'text' must be a string, found ['a']"),
        ("1", GOOD + '{"text": null}\n', "line 2: 'text' must be a string, found None"),
        ("1", GOOD + '["text"]\n', "line 2: a JSON object is expected, found list"),
        ("1", GOOD + '{"text": "\\ud800"}\n', "line 2: the text holds half a UTF-16 surrogate"),
        ("1", "\n\n", "no documents in"),
    ],
)
def test_a_bad_line_is_named_and_leaves_nothing(
    workers: str,
    content: str,
    message: str,
    sentencepiece: Tokenizer,
    repository: Path,
    tmp_path: Path,
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(content)
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_text_document.bin").write_bytes(b"an earlier result")
    result = preprocess(
        repository, "--input", corpus, "--output-prefix", out / "x", "--workers", workers,
        *flags(sentencepiece),
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert str(corpus) in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in out.iterdir()] == ["x_text_document.bin"]
    assert (out / "x_text_document.bin").read_bytes() == b"an earlier result"


def test_a_line_that_is_not_utf8(
    sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(GOOD.encode() + b'{"text": "caf\xe9"}\n')
    prefix = tmp_path / "x"
    result = preprocess(
        repository, "--input", corpus, "--output-prefix", prefix, *flags(sentencepiece)
    )
    assert result.returncode == 2
    assert "line 2: not a line of JSON" in result.stderr
    assert "utf-8" in result.stderr


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
        *flags(sentencepiece), *changes,
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
        assert one == many == by_glob
    sidecar = json.loads((tmp_path / "many_text_document.json").read_text())
    assert [source["documents"] for source in sidecar["sources"]] == [10, 10, 10, 10]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
def test_a_cut_shard_is_refused(
    name: str, sentencepiece: Tokenizer, repository: Path, tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / name
    text = "".join(json.dumps({"text": f"{i * i} documents"}) + "\n" for i in range(500))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zst"):
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(text.encode())
    else:
        parquet.write_table(pyarrow.table({"text": text.splitlines()}), path)
    path.write_bytes(path.read_bytes()[:-60])
    result = preprocess(
        repository, "--input", path, "--output-prefix", tmp_path / "out", *flags(sentencepiece)
    )
    assert result.returncode == 2, result.stderr
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("out*"))
