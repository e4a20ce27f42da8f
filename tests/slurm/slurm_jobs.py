"""A job on the local SLURM, and the metrics of what it trained."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from megatron_math.base.road import Road


class Job:
    """One submitted job and what SLURM says of it."""

    def __init__(self, env: dict[str, str], number: str, log_path: Path):
        self.env, self.number, self.log_path = env, number, log_path

    @staticmethod
    def submitted(env: dict[str, str], folder: Path, argv: list[str]) -> "Job":
        """By sbatch, in a folder of its own."""
        command = ["sbatch", "--parsable", *argv]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        number = done.stdout.strip()
        return Job(env, number, folder / f"train_{number}.log")

    def call(self, *argv: str) -> str:
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def fact(self, name: str) -> str:
        shown = self.call("scontrol", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", shown)
        assert found, shown
        return found.group(1)

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def until(self, condition, what: str, seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"job {self.number} never {what}; its log:\n{self.log}"
            time.sleep(0.2)

    def until_it_ended(self, seconds: float = 300.0) -> str:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        self.until(lambda: self.fact("JobState") in over, "ended", seconds)
        return self.fact("JobState")


def rows(road: Road) -> list[dict]:
    path = road.folder("50_train") / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same_numbers(found: list[dict], expected: list[dict]) -> None:
    assert [row["iteration"] for row in found] == [row["iteration"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert losses(one) == pytest.approx(losses(other), rel=1e-5)


def losses(row: dict) -> dict[str, float]:
    return {n: v for n, v in row.items() if n in ("lm loss", "grad-norm") or n.startswith("loss/")}
