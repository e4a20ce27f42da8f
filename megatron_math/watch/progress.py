"""The true progress of a run, from launches.jsonl and metrics.jsonl: what counted, what was lost.

A step counts when no restart made the run repeat it. Effective training time is the seconds of
the steps that count, over the wall clock from the first begin to the last sign of life.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_math.watch.launches import FILE, KILLED, Launch, read_launches, whole_rows

RECENT_STEPS = 20
"""Steps that the current rate is the median of."""
PACE_STEPS = 200
"""Steps whose wall clock, with validation and saves, gives the estimate to the end."""
STALL_MEDIANS = 20.0
STALL_LEAST_SECONDS = 300.0


@dataclass(frozen=True)
class Row:
    """What progress needs of a line of metrics.jsonl. Old rows have no time."""

    iteration: int
    seconds: float
    between_seconds: float
    time: float | None
    tokens: int
    tokens_per_second: float
    stage: str | None


@dataclass
class Progress:
    """What the two files of a run say, and what in them could not be read. Lists are by launch."""

    rows: Sequence[Row]
    launches: Sequence[Launch]
    problems: list[str]
    last_signs: Sequence[float] = ()
    """The last time at which it is known to have lived."""
    reached: Sequence[int | None] = ()
    """The iteration it came to."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Where the wall clock went, in seconds: steps (those that count), repeated (those that do
    not), starting (from a begin to the begin of a first step), down (between launches), other."""

    @property
    def wall_seconds(self) -> float | None:
        """From the first begin to the last sign of life."""
        return max(self.last_signs) - self.launches[0].begin if self.launches else None

    @property
    def effective_share(self) -> float | None:
        wall = self.wall_seconds
        return self.spent["steps"] / wall if wall else None

    @property
    def steps_repeated(self) -> int:
        """Steps that restarts cost: each was made once for nothing."""
        return sum(launch.repeats for launch in self.launches)

    def cause(self, number: int) -> str | None:
        """How launch `number` (its place in the list) ended; None when it is the last and open."""
        launch = self.launches[number]
        if launch.cause is None and number + 1 < len(self.launches):
            return killed_when(launch)
        return launch.cause


def killed_when(launch: Launch) -> str:
    """The cause of a launch without an end."""
    if launch.first_step_at is not None:
        return KILLED
    return f"{KILLED} {'before its first step' if launch.loaded_at else 'while loading'}"


def read_progress(folder: Path) -> Progress:
    """Of the run in `folder` (50_train), which may be running, half broken or not there."""
    rows, problems = _read_rows(folder / "metrics.jsonl")
    launches, more = read_launches(folder / FILE)
    progress = Progress(rows, launches, problems + more)
    if launches:
        progress.last_signs = _last_signs(launches, rows)
        progress.reached = _reached(launches, rows)
        progress.spent = _spent(progress)
    return progress


def _read_rows(path: Path) -> tuple[list[Row], list[str]]:
    rows, problems = [], []
    for number, row in whole_rows(path):
        try:
            rows.append(
                Row(
                    iteration=int(row["iteration"]),
                    seconds=row["elapsed_ms"] / 1000,
                    between_seconds=math.fsum(row.get("between_ms", {}).values()) / 1000,
                    time=row.get("time"),
                    tokens=row["consumed_tokens"],
                    tokens_per_second=row["tokens_per_second"],
                    stage=row.get("stage"),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(f"{path.name}, line {number}: not a row of a training step")
    return rows, problems


def _last_signs(launches: Sequence[Launch], rows: Sequence[Row]) -> list[float]:
    begins = [launch.begin for launch in launches]
    signs = [
        max(t for t in (x.begin, x.loaded_at, x.first_step_at, x.ended_at) if t is not None)
        for x in launches
    ]
    seen = [row.time for row in rows]  # and rows that were cut are remembered by who cut them
    seen += [launch.before.get("time") for launch in launches if launch.before]
    for at in seen:
        if at is not None and (number := bisect_right(begins, at) - 1) >= 0:
            signs[number] = max(signs[number], at)
    return signs


def _reached(launches: Sequence[Launch], rows: Sequence[Row]) -> list[int | None]:
    """A launch that made no step came to where it went on, whatever stands in the file."""
    reached = [launch.iteration for launch in launches]
    stepped: int | None = None
    for number, launch in enumerate(launches):
        if launch.iteration is not None and stepped is not None and launch.before:
            reached[stepped], stepped = launch.before.get("iteration"), None
        if launch.first_step_at is not None:
            stepped = number
    if stepped is not None and rows:
        reached[stepped] = rows[-1].iteration
    return reached


def _spent(progress: Progress) -> dict[str, float]:
    launches, signs = progress.launches, progress.last_signs
    first = launches[0].begin
    timed = [row for row in progress.rows if row.time is not None and row.time >= first]
    starting = [
        (sign if launch.first_step_at is None else launch.first_step_at - launch.first_step_seconds)
        - launch.begin
        for launch, sign in zip(launches, signs, strict=True)
    ]
    spent = {
        "steps": math.fsum(row.seconds for row in timed),
        "repeated": math.fsum(launch.repeated_seconds for launch in launches),
        "starting": math.fsum(starting),
        "down": math.fsum(
            max(0.0, later.begin - sign)
            for later, sign in zip(launches[1:], signs[:-1], strict=True)
        ),
    }
    wall = progress.wall_seconds or 0.0
    return spent | {"other": max(0.0, wall - math.fsum(spent.values()))}


def pace_seconds(progress: Progress) -> float | None:
    """Wall clock of a step of the last launch, with validation and saves; None without steps."""
    begin = progress.launches[-1].begin if progress.launches else -math.inf
    times = [row.time for row in progress.rows if row.time is not None and row.time >= begin]
    times = times[-PACE_STEPS:]
    if len(times) > 2 and times[-1] > times[0]:
        return (times[-1] - times[0]) / (len(times) - 1)
    recent = progress.rows[-PACE_STEPS:]
    return statistics.fmean(row.seconds for row in recent) if recent else None


def stall_limit_seconds(
    steps: Sequence[float],
    between: Sequence[float],
    medians: float = STALL_MEDIANS,
    least: float = STALL_LEAST_SECONDS,
) -> float:
    """Silence that is a stall: so many median steps, and the longest pause there was on top.

    steps, between: seconds of steps, and of validation and saves between two of them.
    """
    median = statistics.median(steps) if steps else 0.0
    return max(least, medians * median + max(between, default=0.0))
