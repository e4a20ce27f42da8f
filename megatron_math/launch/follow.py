"""Watch submitted jobs to their end: what they log, and every change of their state."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from megatron_math.base.log import log
from megatron_math.launch.slurm import JobState, states

LOOK_SECONDS = 2.0
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Submitted:
    """A job that was handed to SLURM."""

    job: int
    what: str
    """train, chain 2 of 3, shards 0-31, merge."""
    log: Path | None
    """Where it writes; None for an array, whose tasks write a file each."""


def follow(
    jobs: Sequence[Submitted],
    say: Callable[[str], None],
    look: Callable[[int], list[JobState]] = states,
    look_seconds: float = LOOK_SECONDS,
) -> int:
    """Follow jobs, one after another, until all have ended. `say` gets what they log.

    Returns 0 when the last one completed, 75 when it had stopped on request, else 1.
    """
    code = EXIT_DONE
    for job in jobs:
        code = _follow_one(job, say, look, look_seconds)
    return code


def _follow_one(
    job: Submitted,
    say: Callable[[str], None],
    look: Callable[[int], list[JobState]],
    look_seconds: float,
) -> int:
    shown, ended_before, tail = "", False, Tail(job.log)
    while True:
        found = look(job.job)
        text = _words(found)
        if text != shown:
            log.info("job %d (%s): %s", job.job, job.what, text)
            shown = text
        for piece in tail.read():
            say(piece)
        ended = all(state.has_ended for state in found)
        if ended and (ended_before or not found):  # a requeue looks like an end for a moment
            return _exit_code(found)
        ended_before = ended
        time.sleep(look_seconds)


def _words(found: list[JobState]) -> str:
    if not found:
        return "SLURM no longer knows it"
    if len(found) == 1 and found[0].tasks == 1:
        return str(found[0])
    counts: Counter[str] = Counter()
    for state in found:
        counts[state.state] += state.tasks
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def _exit_code(found: list[JobState]) -> int:
    if found and all(state.state == "COMPLETED" for state in found):
        return EXIT_DONE
    if found and all(state.exit_code in (0, EXIT_STOPPED) and state.state in ("COMPLETED", "FAILED")
                     for state in found):  # fmt: skip
        return EXIT_STOPPED
    return EXIT_FAILED


class Tail:
    """What was added to a file since the last look; a file that is not there yet has nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path, self._read = path, 0

    def read(self) -> list[str]:
        if self.path is None or not self.path.exists():
            return []
        pieces = []
        with self.path.open("rb") as file:
            file.seek(self._read)
            while piece := file.read(_PIECE_BYTES):
                pieces.append(piece.decode("utf-8", "replace"))
                self._read += len(piece)
        return pieces
