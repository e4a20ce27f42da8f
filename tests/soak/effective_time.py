"""Effective training time with a kill every minute, and the end of it beside an unbroken run's.

    python tests/soak/effective_time.py [--minutes 10] [--every 60] [--interval 10] [--seed 1]
        [--work DIR]

A run of the quickstart's size, data 2, saves beside training, started by one `megatron-math train`.
In every span of 60 seconds one rank, drawn by chance, gets SIGKILL at a moment drawn by chance. The
unbroken run comes first; the length of both follows from its steps. At the end every tensor of the
last checkpoint, every row of the losses and every validation loss must be the unbroken run's.
Prints JSON: the share that `status` gives (seconds of the steps that count, over the wall clock
since the first rank began), the same over the whole time of the command, imports and the last save
included, where the rest went, and the unbroken run's whole time over the killed one's.
"""

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench" / "reliability"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

from killed_ranks import kill_rank, ranks_of
from small_run import prepared, start
from test_resume import differing, tensors, without_timing
from train_roads import metrics

from megatron_math.base.log import set_up_logging
from megatron_math.base.road import Road
from megatron_math.watch.progress import read_progress

STEPS_A_SECOND_GUESSED = 8
LIMIT_SECONDS = 3 * 3600


def train(road: Road, kills: "Kills | None" = None) -> float:
    """Seconds of the whole command."""
    began = time.monotonic()
    process, log = start(road)
    while process.poll() is None:
        time.sleep(0.05)
        seconds = time.monotonic() - began
        assert seconds < LIMIT_SECONDS, "it does not end"
        if kills is not None:
            kills.come(process.pid, seconds)
    seconds = time.monotonic() - began
    assert process.returncode == 0, log.read_text()[-5000:]
    return seconds


class Kills:
    """One in every span, of a rank that is there."""

    def __init__(self, every: float, generator: random.Random) -> None:
        self._every, self._generator, self.done = every, generator, 0
        self._next = generator.uniform(0, every)

    def come(self, launcher: int, seconds: float) -> None:
        """Kill when it is time; a rank that is not there yet is waited for."""
        if seconds < self._next or len(ranks_of(launcher)) < 2:
            return
        with contextlib.suppress(KeyError, ProcessLookupError):  # the run has just ended
            kill_rank(launcher, self._generator.randrange(2))
            self.done += 1
            self._next = self.done * self._every + self._generator.uniform(0, self._every)


def compare(unbroken: Road, killed: Road) -> None:
    """AssertionError names what differs."""
    found = differing(tensors(unbroken), tensors(killed))
    assert found == [], f"tensors differ: {found[:4]}"
    rows = [without_timing(metrics(road)) for road in (unbroken, killed)]
    assert rows[0] == rows[1], "rows of metrics.jsonl differ"
    held_out = [metrics(road, "validation.jsonl") for road in (unbroken, killed)]
    assert held_out[0] == held_out[1], "validation.jsonl differs"


def shares(road: Road, seconds: float) -> dict[str, Any]:
    progress = read_progress(road.folder("50_train"))
    return {
        "effective_share_of_status": round(progress.effective_share or 0.0, 4),
        "effective_share_of_command": round(progress.spent["steps"] / seconds, 4),
        "command_seconds": round(seconds, 1),
        "spent_seconds": {name: round(value, 1) for name, value in progress.spent.items()},
        "steps": len(progress.rows),
        "steps_repeated": progress.steps_repeated,
        "causes": [progress.cause(number) for number in range(len(progress.launches))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of the unbroken run, roughly")
    parser.add_argument("--every", type=float, default=60.0, help="seconds")
    parser.add_argument("--interval", type=int, default=10, help="iterations between checkpoints")
    parser.add_argument("--steps-a-second", type=float, default=STEPS_A_SECOND_GUESSED)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        steps = round(arguments.minutes * 60 * arguments.steps_a_second)
        unbroken = prepared(work, steps, arguments.interval)
        shutil.copytree(unbroken.runs, work / "killed", symlinks=True, dirs_exist_ok=True)
        killed = Road.load(unbroken.yaml_path, runs=work / "killed")
        whole = train(unbroken)
        kills = Kills(arguments.every, random.Random(arguments.seed))
        seconds = train(killed, kills)
        compare(unbroken, killed)
        said = {
            "kills": kills.done,
            "differences": 0,
            **shares(killed, seconds),
            "unbroken_over_killed": round(whole / seconds, 4),
            "unbroken": shares(unbroken, whole),
        }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
