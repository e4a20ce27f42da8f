"""All that `status` says of a run, as JSON values; works while it runs and on half a folder."""

import os
import pwd
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_math.checkpoint.folders import complete_checkpoints, faults
from megatron_math.status.find import TRAINING, Target
from megatron_math.status.queue import Queue, chain_of
from megatron_math.watch.config import WatchConfig
from megatron_math.watch.launches import KILLED, is_gone
from megatron_math.watch.progress import (
    RECENT_STEPS,
    Progress,
    killed_when,
    pace_seconds,
    read_progress,
    stall_limit_seconds,
)

SHALLOW = "files and their sizes; digests are not read here"


def gather(
    target: Target, queue_of: Callable[[str | None], Queue], now: float | None = None
) -> dict[str, Any]:
    """Facts of one run. queue_of: the SLURM queue of a user."""
    now = time.time() if now is None else now
    folder = target.root / TRAINING
    progress = read_progress(folder)
    launches = progress.launches
    jobs = [launch.slurm_job for launch in launches if launch.slurm_job]
    names = {launch.slurm_name for launch in launches if launch.slurm_name}
    queue = queue_of(_owner(folder)) if jobs else Queue([], "no job of SLURM ran it")
    state, why = _state(folder, progress, target.watch, queue, now)
    return {
        "run": target.name,
        "folder": str(folder),
        "state": state,
        "why": why,
        **_steps(progress),
        **_time(progress),
        "launches": _launches(progress, is_over=state == "died"),
        "checkpoints": _checkpoints(folder / "checkpoints", progress),
        "speed": _speed(progress),
        "estimate": _estimate(progress, state, now),
        "queue": chain_of(queue, jobs, names),
        "problems": progress.problems,
    }


def _state(
    folder: Path, progress: Progress, watch: WatchConfig, queue: Queue, now: float
) -> tuple[str, str]:
    """(one word, the reason in words)."""
    if (folder / "DONE").is_file():
        return "done", "the stage is finished"
    if not progress.launches:
        if not progress.rows:
            return "not started", f"{folder.name} has no launch and no step"
        return "unknown", "no launches.jsonl: an older version trained it"
    launch = progress.launches[-1]
    if launch.cause is not None:
        if launch.cause == "done":
            return "done", "all steps are made; the same command closes the stage"
        state = "died" if launch.cause.startswith(("error", KILLED)) else "stopped"
        return state, f"{launch.cause}, {ago(now - progress.last_signs[-1])}"
    silence = max(0.0, now - progress.last_signs[-1])
    if is_gone(launch.process):
        return "died", f"{killed_when(launch)}: its process is gone; last sign {ago(silence)}"
    job = launch.slurm_job
    if job and queue.missing is None and job not in [each.number for each in queue.jobs]:
        return "died", f"job {job} is not in the queue any more; last sign {ago(silence)}"
    if launch.first_step_at is None:
        return "running", f"no step yet, begun {ago(now - launch.begin)}"
    limit = _stall_limit(progress, watch)
    if silence > limit:
        return "stalled", f"no step for {silence:.0f} s, and {limit:.0f} s are the limit"
    return "running", f"last step {ago(silence)}"


def _stall_limit(progress: Progress, watch: WatchConfig) -> float:
    recent = progress.rows[-RECENT_STEPS * 5 :]
    steps, between = [row.seconds for row in recent], [r.between_seconds for r in progress.rows]
    medians, least = watch.stall_medians, watch.stall_least_seconds
    if medians is None:
        return stall_limit_seconds(steps, between)
    return stall_limit_seconds(steps, between, medians, least)


def ago(seconds: float) -> str:
    """How long ago, in words."""
    return f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Rounded to what matters: 4.2 s, 3 min 10 s, 5 h 2 min, 3 d 4 h."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _steps(progress: Progress) -> dict[str, Any]:
    rows = progress.rows
    planned = next((one.stages for one in reversed(progress.launches) if one.stages), ())
    first = planned[0]["first"] if planned else (rows[0].iteration - 1 if rows else None)
    iteration = rows[-1].iteration if rows else first
    stages = {
        stage["stage"]: {"stage": stage["stage"], "steps": 0, "tokens": 0,
                         "of": stage["end"] - stage["first"]}
        for stage in planned
    }  # fmt: skip
    before = 0
    for number, row in enumerate(rows):
        own = stages.setdefault(
            row.stage or "?", {"stage": row.stage or "?", "steps": 0, "tokens": 0, "of": None}
        )
        own["steps"] += 1
        # Tokens of a run that goes on from another one begin with that one's.
        own["tokens"] += row.tokens - before if number or not first else 0
        before = row.tokens
    return {
        "iteration": iteration,
        "iterations": planned[-1]["end"] if planned else None,
        "first_iteration": first,
        "tokens": rows[-1].tokens if rows else 0,
        "stages": list(stages.values()),
    }


def _time(progress: Progress) -> dict[str, Any]:
    return {
        "wall_seconds": progress.wall_seconds,
        "effective_share": progress.effective_share,
        "spent_seconds": dict(progress.spent),
        "restarts": max(0, len(progress.launches) - 1),
        "steps_repeated": progress.steps_repeated,
    }


def _launches(progress: Progress, *, is_over: bool) -> list[dict[str, Any]]:
    """is_over: the last launch, too, has ended, whether it could say so or not."""
    return [
        {
            "launch": launch.number,
            "begin": launch.begin,
            "host": launch.host,
            "world": launch.world,
            "slurm_job": launch.slurm_job,
            "from": launch.source,
            "iteration": launch.iteration,
            "reached": progress.reached[number],
            "repeats": launch.repeats,
            "first_step_after_seconds": None
            if launch.first_step_at is None
            else launch.first_step_at - launch.begin,
            "back_after_seconds": _back_after(progress, number),
            "last_sign": progress.last_signs[number],
            "notes": launch.notes,
            "cause": progress.cause(number) or (killed_when(launch) if is_over else None),
        }
        for number, launch in enumerate(progress.launches)
    ]


def _back_after(progress: Progress, number: int) -> float | None:
    """Seconds from the last sign of the launch before to the end of this one's first step."""
    first = progress.launches[number].first_step_at
    return None if first is None or not number else first - progress.last_signs[number - 1]


def _checkpoints(save: Path, progress: Progress) -> dict[str, Any]:
    """The newest that a shallow look finds whole, and those that it does not."""
    found: dict[str, Any] | None = None
    damaged = []
    try:
        folders = complete_checkpoints(save)
    except OSError as error:
        return {"check": SHALLOW, "count": 0, "newest_good": None, "damaged": [str(error)]}
    for checkpoint in reversed(folders):
        try:
            problems = faults(checkpoint.folder, deep=False)
            sealed = (checkpoint.folder / "complete.json").stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems, sealed = [f"{type(error).__name__}: {error}"], 0.0
        if not problems:
            found = {"name": checkpoint.folder.name, "iteration": checkpoint.iteration,
                     "time": sealed}  # fmt: skip
            break
        damaged.append(f"{checkpoint.folder.name}: {'; '.join(problems[:3])}")
    if found and progress.rows:
        found["steps_behind"] = max(0, progress.rows[-1].iteration - (found["iteration"] or 0))
    return {"check": SHALLOW, "count": len(folders), "newest_good": found, "damaged": damaged}


def _speed(progress: Progress) -> dict[str, Any]:
    rates = [row.tokens_per_second for row in progress.rows]
    if not rates:
        return {"now": None, "median": None, "share": None, "median_step_seconds": None}
    now, median = statistics.median(rates[-RECENT_STEPS:]), statistics.median(rates)
    return {
        "now": now,
        "median": median,
        "share": now / median if median else None,
        "median_step_seconds": statistics.median(row.seconds for row in progress.rows),
    }


def _estimate(progress: Progress, state: str, now: float) -> dict[str, Any] | None:
    """Seconds to the end at the pace of the last steps, and with as many losses as so far."""
    steps, pace = _steps(progress), pace_seconds(progress)
    if state == "done" or steps["iterations"] is None or pace is None or not progress.rows:
        return None
    left = steps["iterations"] - steps["iteration"]
    made, wall = counted_steps(progress), progress.wall_seconds
    seconds = left * pace
    return {
        "steps": left,
        "seconds": seconds,
        "seconds_with_losses": left * wall / made if wall and made else None,
        "end": datetime.fromtimestamp(now + seconds, UTC).isoformat(timespec="seconds")
        if state == "running"
        else None,
    }


def counted_steps(progress: Progress) -> int:
    """Steps within the wall clock that no restart undid."""
    first = progress.launches[0].begin if progress.launches else float("inf")
    return sum(row.time is not None and row.time >= first for row in progress.rows)


def _owner(folder: Path) -> str | None:
    try:
        return pwd.getpwuid(os.stat(folder).st_uid).pw_name
    except (OSError, KeyError):
        return None


def gather_all(
    targets: Sequence[Target], read: Callable[[str | None], Queue]
) -> list[dict[str, Any]]:
    """Facts of all runs; the queue of each user is read once."""
    queues: dict[str | None, Queue] = {}

    def queue_of(user: str | None) -> Queue:
        if user not in queues:
            queues[user] = read(user)
        return queues[user]

    return [gather(target, queue_of) for target in targets]
