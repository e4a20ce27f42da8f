"""What SLURM says of a run's jobs, where there is a SLURM: one squeue for each owner of runs."""

import getpass
import re
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

FORMAT = "%A|%T|%r|%S|%L|%E|%j"
ANSWER_SECONDS = 20
NAMELESS = {"bash", "sh", "zsh", "wrap", "interactive", "python"}
"""Names that SLURM gives by itself: two jobs called so need have nothing to do with each other."""


@dataclass(frozen=True)
class Job:
    """A line of squeue. `after`: numbers of the jobs that it waits for."""

    number: str
    state: str
    reason: str
    start: str
    time_left: str
    after: Sequence[str]
    name: str


@dataclass(frozen=True)
class Queue:
    """Jobs of one user. `missing`: why they are not known, None where they are."""

    jobs: Sequence[Job]
    missing: str | None = None


def read_queue(user: str | None = None) -> Queue:
    """Ask squeue for the jobs of `user`, of this process's by default."""
    command = ["squeue", "--noheader", "--user", user or getpass.getuser(), "--format", FORMAT]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError:
        return Queue([], "there is no squeue here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Queue([], f"squeue did not answer ({type(error).__name__})")
    if done.returncode:
        return Queue([], f"squeue ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return Queue([job for line in done.stdout.splitlines() if (job := _job(line))])


def _job(line: str) -> Job | None:
    fields = line.strip().split("|", 6)
    if len(fields) < 7:
        return None
    number, state, reason, start, time_left, dependency, name = fields
    after = re.findall(r":(\d+)", dependency)
    return Job(number, state, reason, start, time_left, after, name)


def chain_of(queue: Queue, numbers: Sequence[str], names: Collection[str]) -> dict[str, Any]:
    """The chain that a run's jobs are: those that it had, then those to come, in their order.

    numbers, names: of the jobs that the ledger knows. A job belongs to the run when it is one of
    them, waits for one that belongs, or has the name of one, as SLURM's own singleton takes it.
    """
    ours = set(numbers)
    names = {name for name in names if name not in NAMELESS}
    known = [job for job in queue.jobs if job.number in ours or job.name in names]
    while more := [
        job
        for job in queue.jobs
        if job not in known and {*job.after} & ({each.number for each in known} | ours)
    ]:
        known += more
    known.sort(key=lambda job: (len(job.number), job.number))
    past = list(dict.fromkeys(numbers))
    chain = past + [job.number for job in known if job.number not in past]
    return {
        "missing": queue.missing,
        "jobs": [vars(job) for job in known],
        "chain": chain,
        "position": chain.index(past[-1]) + 1 if past else None,
    }
