"""A road that could be launched, and a SLURM of small scripts."""

from pathlib import Path

import pytest
import yaml
from fake_slurm import FakeSlurm

ROAD = {
    "name": "study/arm",
    "base": {"preset": "tiny"},
    "index": {"tokenizer": {"train": {"vocab_size": 400}},
              "sources": {"general": {"path": "general.jsonl"}}},
    "blend": {"sequence_length": 32, "tokens": 2048, "mix": {"general": {"share": 1}}},
    "parallel": {"tensor": 2},
    "train": {"global_batch_size": 16, "micro_batch_size": 1, "lr": 1e-3},
    "checkpoint": {"interval": 100},
    "launch": {"nodes": 2, "gpus_per_node": 4, "time": "2:00:00"},
}  # fmt: skip


@pytest.fixture
def road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """road.yaml in the working folder; runs/ beside it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump(ROAD))
    return path


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """sbatch, scontrol and srun on the PATH."""
    fake = FakeSlurm.make(tmp_path / "fake")
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    return fake
