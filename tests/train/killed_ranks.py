"""Find the ranks of a local start, kill one of them, and read from the ledger when it was back."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from megatron_math.base.road import Road
from megatron_math.watch.launches import FILE, read_events


def ranks_of(launcher: int) -> dict[int, int]:
    """Process ids of the forked ranks below a `megatron-math train`, by rank."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "stat").read_text()
        except OSError:
            continue
        before, _, after = said.rpartition(")")
        state, parent, *_ = after.split()
        if state not in "ZX":
            pid = int(folder.name)
            parents[pid], names[pid] = int(parent), before.partition("(")[2]
    return {
        int(found.group(1)): pid
        for pid, name in names.items()
        if (found := re.fullmatch(r"rank (\d+)", name)) and parents.get(parents[pid]) == launcher
    }


def kill_rank(launcher: int, rank: int) -> float:
    """SIGKILL; returns the unix time of it."""
    pid = ranks_of(launcher)[rank]
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


def first_steps(road: Road) -> list[dict[str, Any]]:
    """The ledger's line on the end of the first step of each launch that came so far."""
    events, _ = read_events(road.folder("50_train") / FILE)
    return [event for event in events if event["event"] == "step"]


def wait_for_first_step(
    road: Road, number: int, process: subprocess.Popen[bytes], seconds: float = 120.0
) -> dict[str, Any]:
    """That of the `number`th launch that made one, from 1."""
    limit = time.monotonic() + seconds
    while len(found := first_steps(road)) < number:
        assert process.poll() is None, f"the run ended with {process.returncode}"
        assert time.monotonic() < limit, f"no first step in {seconds:.0f} s"
        time.sleep(0.01)
    return found[number - 1]
