"""SLURM's own programs: submit a script, ask what became of a job. Nothing else calls them."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import UserError

_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY",
          "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED")  # fmt: skip
_ANSWER_SECONDS = 60  # a busy controller keeps its clients waiting


@dataclass(frozen=True)
class JobState:
    """One job, or one task of an array, as SLURM knows it now."""

    state: str
    reason: str = ""
    restarts: int = 0
    exit_code: int = 0
    nodes: str = ""
    tasks: int = 1
    """Of an array: SLURM keeps those that wait in one record."""

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED

    def __str__(self) -> str:
        parts = [self.state]
        if self.state == "PENDING" and self.reason not in ("", "None"):
            parts.append(f"({self.reason})")
        if self.state == "RUNNING" and self.nodes:
            parts.append(f"on {self.nodes}")
        if self.restarts:
            parts.append(f"restart {self.restarts}")
        if self.has_ended and self.exit_code:
            parts.append(f"exit code {self.exit_code}")
        return " ".join(parts)


def submit(script: Path, options: Sequence[str] = (), arguments: Sequence[str] = ()) -> int:
    """Hand a script to sbatch; returns the job's number."""
    shown = _call(["sbatch", "--parsable", *options, str(script), *arguments])
    number = re.match(r"\d+", shown)  # a federation adds ;CLUSTER
    if number is None:
        raise UserError(f"sbatch answered {shown!r}, not a job's number")
    return int(number[0])


def states(job: int) -> list[JobState]:
    """Of a job, or of an array all its tasks; none when SLURM has forgotten it."""
    try:
        shown = _call(["scontrol", "--oneliner", "show", "job", str(job)])
    except UserError as error:
        if "nvalid job id" in str(error):
            return []
        raise
    return [_state(line) for line in shown.splitlines() if "JobState=" in line]


def _state(line: str) -> JobState:
    facts = dict(re.findall(r"(\w+)=(\S*)", line))
    return JobState(
        state=facts["JobState"],
        reason=facts.get("Reason", ""),
        restarts=int(facts.get("Restarts", "0")),
        exit_code=int(facts.get("ExitCode", "0:0").split(":")[0]),
        nodes="" if facts.get("NodeList", "").startswith("(null") else facts.get("NodeList", ""),
        tasks=_num_tasks(facts.get("ArrayTaskId", "")),
    )


def _num_tasks(numbers: str) -> int:
    """How many tasks `7`, `3-31%8` or `1,4-6` names."""
    parts = re.findall(r"(\d+)(?:-(\d+))?", numbers.partition("%")[0])
    return sum(int(last or first) - int(first) + 1 for first, last in parts) or 1


def _call(argv: list[str]) -> str:
    if shutil.which(argv[0]) is None:
        raise UserError(
            f"{argv[0]} is not on this machine; launch from a login node of the cluster, or give "
            "--dry-run and take the script there"
        )
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{argv[0]} did not answer in {_ANSWER_SECONDS} s; the controller is busy or away "
            "(scontrol ping)"
        ) from None
    if done.returncode:
        raise UserError(f"{' '.join(argv)}: {done.stderr.strip() or 'failed without a word'}")
    return done.stdout.strip()
