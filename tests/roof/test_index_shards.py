"""`megatron-math index --shard I/N` and `--merge` from the command line."""

import json
from pathlib import Path

import pytest
import yaml

from megatron_math.cli import main


@pytest.fixture
def road(tmp_path: Path, tokenizer_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        rows = [{"text": f"text {number} {i}"} for i in range(30)]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = {
        "tokenizer": str(tokenizer_files["SentencePieceTokenizer"]),
        "sources": {"web": {"path": "*.jsonl"}},
    }
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "index": index}))
    return path


def indexes(runs: str) -> dict[str, bytes]:
    folder = Path(runs) / "small" / "30_index"
    return {path.name: path.read_bytes() for path in folder.glob("web_text_document.*")}


def test_shards_and_merge(
    road: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(road), "--runs", "whole"]) == 0
    assert main(["index", str(road), "--runs", "parts", "--merge"]) == 2
    assert "holds no shards" in capfd.readouterr().err
    assert main(["index", str(road), "--runs", "parts", "--shard", "0/2", "--dry-run"]) == 0
    assert "would run" in capfd.readouterr().out
    assert not Path("parts").exists()
    assert main(["index", str(road), "--runs", "parts", "--shard", "0/2"]) == 0
    for name, value in (("ID", "1"), ("COUNT", "2"), ("MIN", "0"), ("MAX", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert main(["index", str(road), "--runs", "parts"]) == 0  # as a task of a job array
    assert main(["index", str(road), "--runs", "parts", "--merge"]) == 0
    assert indexes("parts") == indexes("whole")
    assert len(indexes("whole")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "2/2"], "a shard is I/N with I from 0 to N - 1"),
        (["--shard", "0/2", "--merge"], "give one of them"),
    ],
)
def test_bad_usage(
    road: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(road), *arguments]) == 2
    assert message in capfd.readouterr().err


def test_a_full_disk_is_a_sentence_and_code_1(
    road: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x.bin.partial")

    monkeypatch.setattr("megatron_math.index.run.encode_files", full)
    assert main(["index", str(road)]) == 1
    said = capfd.readouterr().err
    assert "No space left on device: 'x.bin.partial'; mend that and give the same command" in said
