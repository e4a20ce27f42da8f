"""A rank dies and all are started again in the same job; what is deterministic is not repeated."""

import signal
import time
from pathlib import Path

import pytest
from killed_ranks import kill_rank, wait_for_first_step
from test_resume import differing, num_rows, start, tensors, wait_for, without_timing
from train_roads import metrics

from megatron_math.checkpoint.folders import COMPLETE
from megatron_math.device.standby import Death
from megatron_math.train.standby import Restarts
from megatron_math.watch.launches import Ledger, read_launches
from megatron_math.watch.progress import read_progress

OVERRIDES = [
    "parallel.data=2", "checkpoint.interval=5", "train.validation_interval=15",
    "train.global_batch_size=4", "train.micro_batch_size=1",
]  # fmt: skip


def test_killed_ranks_are_back_in_the_same_job_and_change_nothing(copy_of) -> None:
    unbroken = copy_of("unbroken", *OVERRIDES)
    process = start(unbroken)
    assert wait_for(lambda: num_rows(unbroken) > 0, process)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()

    killed = copy_of("killed", *OVERRIDES)
    process, killed_at = start(killed), []
    for number, rank in ((1, 0), (2, 1)):
        wait_for_first_step(killed, number, process)
        assert wait_for(lambda at=6 * number: num_rows(killed) >= at, process)
        kill_rank(process.pid, rank)
        killed_at.append(time.time())
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert differing(tensors(unbroken), tensors(killed)) == []
    assert without_timing(metrics(unbroken)) == without_timing(metrics(killed))
    assert metrics(unbroken, "validation.jsonl") == metrics(killed, "validation.jsonl")

    told = read_progress(killed.folder("50_train"))
    causes = [told.cause(number) for number in range(len(told.launches))]
    assert causes == ["killed: rank 0 by SIGKILL", "killed: rank 1 by SIGKILL", "done"]
    assert [launch.source for launch in told.launches][0] == "base"
    assert all(launch.source.startswith("iter_") for launch in told.launches[1:])
    assert told.problems == []
    for at, launch in zip(killed_at, told.launches[1:], strict=True):
        assert launch.first_step_at is not None
        dead_seconds = launch.first_step_at - at
        assert dead_seconds < 8
        # With a kill every 60 s at least 85 % of the time go into steps that count.
        assert dead_seconds + launch.repeated_seconds < 0.15 * 60


def test_without_restarts_a_death_is_the_end(copy_of) -> None:
    """The control."""
    road = copy_of("one", *OVERRIDES, "guards.restarts=0")
    process = start(road)
    wait_for_first_step(road, 1, process)
    kill_rank(process.pid, 0)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert read_progress(road.folder("50_train")).cause(0) == "killed: rank 0 by SIGKILL"


def checkpoint(folder: Path, iteration: int) -> None:
    kept = folder / "checkpoints" / f"iter_{iteration:07d}"
    kept.mkdir(parents=True)
    (kept / COMPLETE).touch()


def row(folder: Path, iteration: int) -> None:
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(f'{{"iteration": {iteration}, "elapsed_ms": 1}}\n')


ERROR = Death(1, 1, "error: RuntimeError: planted")


def test_the_same_error_at_the_same_iteration_ends_it(tmp_path, caplog) -> None:
    restarts = Restarts(tmp_path, 3, 2)
    row(tmp_path, 7)
    assert restarts.again(ERROR)
    assert not restarts.again(Death(0, 1, ERROR.words))  # whichever rank was first
    assert "twice at iteration 7" in caplog.text
    assert not restarts.again(ERROR)


@pytest.mark.parametrize("what", ["iteration", "error", "checkpoint", "killed"])
def test_what_may_be_another_accident_is_tried_again(tmp_path, what) -> None:
    restarts = Restarts(tmp_path, 3, 2)
    row(tmp_path, 7)
    assert restarts.again(ERROR if what != "killed" else Death(1, -signal.SIGKILL, None))
    if what == "iteration":
        row(tmp_path, 8)
    if what == "checkpoint":
        checkpoint(tmp_path, 7)
    later = {"error": Death(1, 1, "error: OSError"), "killed": Death(1, -signal.SIGKILL, None)}
    assert restarts.again(later.get(what, ERROR))


def test_restarts_are_counted_from_each_checkpoint(tmp_path) -> None:
    killed = Death(0, -signal.SIGKILL, None)
    restarts = Restarts(tmp_path, 2, 2)
    assert [restarts.again(killed) for _ in range(3)] == [True, True, False]
    checkpoint(tmp_path, 5)
    assert [restarts.again(killed) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("code", [2, 75])
def test_bad_input_and_a_stop_are_no_reason_to_start_again(tmp_path, code) -> None:
    assert not Restarts(tmp_path, 3, 2).again(Death(0, code, None))


def test_a_death_ends_its_launch_in_the_ledger(tmp_path) -> None:
    restarts = Restarts(tmp_path, 3, 2)
    Ledger(tmp_path, world=2).end("error: RuntimeError: Connection closed by peer", 3)
    restarts.ended(ERROR)
    restarts.ended(Death(0, -signal.SIGBUS, None))  # while it loaded, with no launch of its own
    launches, problems = read_launches(tmp_path / "launches.jsonl")
    assert problems == []
    assert [launch.cause for launch in launches] == [
        "error: RuntimeError: planted (rank 1)", "killed: rank 0 by SIGBUS",
    ]  # fmt: skip
