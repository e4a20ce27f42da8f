"""examples/slurm/array.sbatch on a real SLURM: an array of shards, then their merge."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def call(environment: dict[str, str], *argv: str | Path) -> str:
    done = subprocess.run(list(map(str, argv)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def test_an_array_and_its_merge_are_one_run(
    cluster: dict[str, str], repository: Path, tmp_path: Path, tokenizer_files: dict[str, Path]
) -> None:
    environment = {**cluster, "VENV": sys.prefix}
    for number in range(6):
        rows = [{"text": f"document {i} of file {number}"} for i in range(300)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{number}.jsonl").write_text(lines)
    kind = "SentencePieceTokenizer"
    arguments = [
        "python", "tools/preprocess_data.py", "--input", f"{tmp_path}/*.jsonl", "--append-eod",
        "--tokenizer-type", kind, "--tokenizer-model", str(tokenizer_files[kind]),
    ]  # fmt: skip
    tool = [sys.executable, *arguments[1:], "--output-prefix"]
    subprocess.run([*tool, str(tmp_path / "whole" / "x")], cwd=repository, check=True)
    submit = [
        "sbatch", "--parsable", f"--chdir={repository}", "--cpus-per-task=1",
        f"--output={tmp_path}/%A_%a.log",
    ]  # fmt: skip
    script = [repository / "examples/slurm/array.sbatch", *arguments]
    script += ["--output-prefix", tmp_path / "parts" / "x"]
    shards = call(environment, *submit, "--array=0-2", *script).strip()
    merge = call(environment, *submit, f"--dependency=afterok:{shards}", *script, "--merge").strip()
    for _ in range(300):
        state = call(environment, "scontrol", "show", "job", merge)
        if "JobState=COMPLETED" in state or "JobState=FAILED" in state or "Never" in state:
            break
        time.sleep(1)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "JobState=COMPLETED" in state, logs
    assert "shard 2 of 3, as the SLURM job array says" in logs
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes(), path.name
