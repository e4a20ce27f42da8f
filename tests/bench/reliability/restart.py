"""Seconds from the death of a rank to the end of the first new step, and where they go.

    python tests/bench/reliability/restart.py [--kills 20] [--seed 1] [--work DIR] [--cold]

A run of the quickstart's size, data 2, started by `megatron-math train`. Again and again a rank
drawn by chance gets SIGKILL, a random time of up to three seconds after a first step; the new ranks
are forked from the warm standby. The end is the `step` line of launches.jsonl, written when the
first step after the restart has ended. Parts: until the new last rank begins, until it has loaded
the checkpoint, the step. Prints JSON.

--cold: what there is without a standby: the whole command is killed, and the same one started at
once.
"""

import argparse
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from small_run import prepared, start

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "train"))

from killed_ranks import kill_rank, wait_for_first_step

from megatron_math.base.log import set_up_logging
from megatron_math.base.road import Road
from megatron_math.watch.launches import FILE, Launch, read_launches

STEPS = 4000
"""More than any campaign makes."""


def parts(road: Road, died_at: float) -> dict[str, float]:
    """Of the last launch."""
    launch: Launch = read_launches(road.folder("50_train") / FILE)[0][-1]
    assert launch.loaded_at is not None
    assert launch.first_step_at is not None
    return {
        "seconds": launch.first_step_at - died_at,
        "to_begin": launch.begin - died_at,
        "to_loaded": launch.loaded_at - launch.begin,
        "to_step": launch.first_step_at - launch.loaded_at,
        "of_that_the_step": launch.first_step_seconds,
        "steps_repeated": launch.repeats,
    }


def campaign(
    road: Road, kills: int, generator: random.Random, *, cold: bool
) -> list[dict[str, float]]:
    """The parts of each restart."""
    rows: list[dict[str, float]] = []
    began = time.time()
    process, log = start(road)
    wait_for_first_step(road, 1, process)
    rows.append(parts(road, began) | {"steps_repeated": 0})
    while len(rows) <= kills:
        time.sleep(generator.uniform(0, 3))
        if cold:
            died_at = time.time()
            process.kill()
            process.wait()
            process, log = start(road)
        else:
            died_at = kill_rank(process.pid, generator.randrange(2))
        wait_for_first_step(road, len(rows) + 1, process)
        rows.append(parts(road, died_at))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75, log.read_text()[-5000:]
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    seconds = sorted(row["seconds"] for row in rows)
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    return {"kills": len(rows), "median": round(statistics.median(seconds), 3),
            "least": round(seconds[0], 3), "most": round(seconds[-1], 3),
            "medians_of_parts": medians}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--interval", type=int, default=5, help="iterations between checkpoints")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        road = prepared(work, STEPS, arguments.interval)
        generator = random.Random(arguments.seed)
        first, *rows = campaign(road, arguments.kills, generator, cold=arguments.cold)
    said = {"cold": arguments.cold, **summary(rows), "first_start": first, "rows": rows}
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
