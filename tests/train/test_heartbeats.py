"""Ranks are frozen, stuck and slowed in real runs: the right one is named, in time, or none."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from loaded import Forked, loaded
from test_resume import num_rows, wait_for

from megatron_math.base.road import Road
from megatron_math.watch.launches import read_events, read_launches

HERE = Path(__file__).parent
LAUNCH = """
import sys
from megatron_math.device.start import start_processes
sys.exit(start_processes(sys.argv[2:], int(sys.argv[1]), grace_seconds=1.0))
"""
PACED = "import time; in_step(lambda rank, step: time.sleep(0.2))"
"""Steps of a length that loaded machines, too, keep: the run lasts while it is frozen."""
STUCK = """
import time
def planted_sleep(seconds):
    time.sleep(seconds)
def act(rank, step):
    if rank == 1 and 4 <= step < 20:
        time.sleep(0.3)  # a straggler
    if step == 21:
        time.sleep(2.5)  # a step that is slow on all, and lives
    if rank == 0 and step == 23:
        planted_sleep(1000)
in_step(act)
"""


@contextmanager
def ranks_of(road: Road, world: int, fault: str) -> Iterator[Forked]:
    """`world` planted ranks of this road; they are gone in the end."""
    launch = road.runs / "launch.py"
    launch.write_text(LAUNCH)
    rank = [sys.executable, str(HERE / "planted_rank.py"), fault, str(road.yaml_path)]
    process = loaded().start(
        [sys.executable, str(launch), str(world), *rank, *road.overrides, "--runs", str(road.runs)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # its ranks die with it
        process.communicate()


def pid_of(process: Forked, rank: int) -> int:
    (found,) = [
        one.pid for one in psutil.Process(process.pid).children() if one.name() == f"rank {rank}"
    ]
    return found


def notes(road: Road) -> list[dict[str, Any]]:
    launches, problems = read_launches(road.folder("50_train") / "launches.jsonl")
    assert problems == []
    return [dict(note) for note in launches[-1].notes]


def end_of(road: Road) -> str:
    events, _ = read_events(road.folder("50_train") / "launches.jsonl")
    (end,) = [event for event in events if event["event"] == "end"]
    return str(end["cause"])


def freeze_alike(process: Forked, seconds: float) -> None:
    pids = [pid_of(process, rank) for rank in (0, 1)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(seconds if number == signal.SIGSTOP else 0)


def comes_on(road: Road, process: Forked) -> None:
    rows = num_rows(road)
    until(lambda: num_rows(road) > rows + 3, process, 60)


def until(condition: Any, process: Forked, seconds: float) -> None:
    by = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()[-3000:]
        assert time.monotonic() < by, "it did not come in time"
        time.sleep(0.02)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("layout", ["tensor", pytest.param("data", marks=pytest.mark.soak)])
def test_a_frozen_rank_is_named_and_the_others_leave_with_their_stacks(
    layout: str, copy_of
) -> None:
    """First rank 0, in which the store lies and which comes back; then the last one for good.

    Before that, in one layout, both freeze for longer than would end the run, and nobody is named.
    """
    road = copy_of(
        layout, f"parallel.{layout}=2", "guards.hang_seconds=6", "guards.stuck_seconds=60",
        "guards.straggler_steps=null", "train.global_batch_size=4", "train.validation_samples=0",
    )  # fmt: skip
    with ranks_of(road, 2, PACED) as process:
        assert wait_for(lambda: num_rows(road) >= 5, process), process.communicate()[1].decode()
        assert notes(road) == []  # nobody is named in a healthy run
        if layout == "tensor":
            freeze_alike(process, seconds=8.0)
            comes_on(road, process)
            assert notes(road) == []
        for rank in (0, 1):
            os.kill(pid_of(process, rank), signal.SIGSTOP)
            begin = time.time()
            seen = len(notes(road))
            until(lambda seen=seen: len(notes(road)) > seen, process, 30)
            note = notes(road)[seen]
            seconds = note["time"] - begin
            print(f"{layout} 2: rank {rank} was named after {seconds:.1f} s: {note['message']}")
            assert (note["what"], seconds < 8) == ("frozen", True)
            assert note["message"].startswith(f"rank {rank} (host ")
            assert "its process was stopped by a signal" in note["message"]
            if rank == 0:
                os.kill(pid_of(process, rank), signal.SIGCONT)
                until(lambda: notes(road)[-1]["what"] == "alive", process, 30)
                comes_on(road, process)
        assert process.wait(60) == 1
    assert re.match(r"error: frozen for \d+ s: rank 1 \(host ", end_of(road))
    stacks = (road.folder("50_train") / "stacks" / "rank0.txt").read_text()
    assert "Current thread" in stacks
    assert "one_iteration" in stacks
    assert [note["what"] for note in notes(road)] == ["frozen", "alive", "frozen"]


@pytest.mark.timeout(300)
def test_the_one_that_is_stuck_is_named_and_the_slow_one_before(copy_of) -> None:
    """Rank 1 is slow at first; then rank 0 does not come and rank 1, which logs, waits for it."""
    road = copy_of(
        "stuck", "parallel.data=2", "guards.hang_seconds=5", "guards.stuck_seconds=3",
        "guards.straggler_steps=5", "train.global_batch_size=4", "train.validation_samples=0",
    )  # fmt: skip
    with ranks_of(road, 2, STUCK) as process:
        assert process.wait(200) == 1, process.communicate()[1].decode()[-3000:]
    assert num_rows(road) == 22  # the slow step was made
    found = {note["what"]: note["message"] for note in notes(road)}
    print(notes(road))
    assert [note["what"] for note in notes(road)] == ["straggler", "stuck"]
    assert found["straggler"].startswith("rank 1 (host ")
    assert ": data takes 3" in found["straggler"]
    assert "rank 0 (host " in found["stuck"]
    assert "after iteration 22, in data" in found["stuck"]
    assert "rank 1 (" not in found["stuck"]
    assert end_of(road).startswith("error: stuck for ")
    assert ": rank 0 (host " in end_of(road)
    folder = road.folder("50_train") / "stacks"
    assert "planted_sleep" in (folder / "rank0.txt").read_text()
    assert "planted_sleep" not in (folder / "rank1.txt").read_text()
    assert "one_iteration" in (folder / "rank1.txt").read_text()
