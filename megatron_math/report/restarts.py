"""How often a run was started, why it ended, and where its wall clock went.

Reads 50_train/launches.jsonl and metrics.jsonl by the code that `status` reads them with.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_math.watch.progress import Progress, read_progress


def read_restarts(folder: Path) -> dict[str, Any] | None:
    """Facts of all launches; None for a run without launches.jsonl."""
    progress = read_progress(folder)
    if not progress.launches:
        return None
    return {
        "wall_seconds": progress.wall_seconds,
        "effective_share": progress.effective_share,
        "restarts": len(progress.launches) - 1,
        "steps_repeated": progress.steps_repeated,
        "spent_seconds": dict(progress.spent),
        "launches": [_launch(progress, number) for number in range(len(progress.launches))],
    }


def _launch(progress: Progress, number: int) -> dict[str, Any]:
    launch = progress.launches[number]
    first = launch.first_step_at
    return {
        "begin": datetime.fromtimestamp(launch.begin, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "from": launch.source,
        "world": launch.world,
        "slurm_job": launch.slurm_job,
        "iteration": launch.iteration,
        "reached": progress.reached[number],
        "repeats": launch.repeats,
        "first_step_after_seconds": None if first is None else first - launch.begin,
        "lived_seconds": progress.last_signs[number] - launch.begin,
        "cause": progress.cause(number),
    }
