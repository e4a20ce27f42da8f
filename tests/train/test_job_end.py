"""The end of the job's time and of memory: told in words, with everything saved that can be."""

import time
from typing import Any

import pytest
import torch
from test_resume import differing, tensors, without_timing
from test_watch import in_step, status_of, train_here
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.base.files import read_json
from megatron_math.cli import main
from megatron_math.train import run as room
from megatron_math.train.full_memory import MemoryFullError
from megatron_math.train.guard_config import GuardConfig
from megatron_math.train.job_end import FIRST_SAVE_SECONDS, JobEnd

PETABYTE = 1 << 50


def allocate() -> None:
    torch.empty(PETABYTE, dtype=torch.uint8)


def test_no_step_begins_whose_checkpoint_would_come_too_late() -> None:
    clock = [1000.0]
    environment = {"SLURM_JOB_END_TIME": "2000"}
    job = JobEnd(GuardConfig(end_margin_seconds=60), environment, now=lambda: clock[0])
    assert not job.is_near()
    job.stepped(10.0)
    for seconds in (30.0, 20.0):
        job.saved(seconds)
    job.stepped(5.0)
    for now, is_near in ((1899.0, False), (1901.0, True)):  # 10 + 30 + 60 before the end
        clock[0] = now
        assert job.is_near() is is_near
    own = JobEnd(GuardConfig(end_time=3000.0), environment, now=lambda: clock[0])
    assert not own.is_near()  # the road's end stands above SLURM's
    clock[0] = 3000.0 - 60 - FIRST_SAVE_SECONDS + 1  # no save was seen
    assert own.is_near()
    assert not JobEnd(GuardConfig(end_margin_seconds=None), environment).is_near()
    assert not JobEnd(GuardConfig(), {}).is_near()
    assert not JobEnd(GuardConfig(), {"SLURM_JOB_END_TIME": "Unknown"}).is_near()


def test_a_run_stops_before_its_job_ends_and_goes_on_as_if_nothing_was(
    copy_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = copy_of("unbroken", "train.validation_samples=0")
    train_here(unbroken)
    road = copy_of("timed", "train.validation_samples=0", "guards.end_margin_seconds=0")
    end = int(time.time() + FIRST_SAVE_SECONDS + 10)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(end))

    def wait() -> None:
        time.sleep(max(0.0, end - FIRST_SAVE_SECONDS - time.time()))

    with in_step(6, wait), pytest.raises(StoppedOnRequest, match="after iteration 6, all is saved"):
        train_here(road)
    (launch,) = status_of(road)["launches"]
    assert launch["cause"] == "stopped on request (the job's time ends)"
    assert status_of(road)["checkpoints"]["newest_good"]["iteration"] == 6
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train_here(road)
    assert differing(tensors(unbroken), tensors(road)) == []
    assert without_timing(metrics(unbroken)) == without_timing(metrics(road))


def test_memory_that_is_full_later_is_a_failure_that_a_new_start_may_mend(copy_of) -> None:
    road = copy_of("later", "train.validation_samples=0")
    with in_step(4, allocate), pytest.raises(MemoryFullError, match="after 3 step"):
        train_here(road)
    cause = status_of(road)["launches"][-1]["cause"]
    assert cause.startswith("error: MemoryFullError: out of memory on rank 0")
    other = copy_of("other", "train.validation_samples=0")

    def fail() -> None:
        raise RuntimeError("planted")

    with in_step(4, fail), pytest.raises(RuntimeError, match="planted"):
        train_here(other)
    assert not (other.folder("50_train") / "out_of_memory.json").exists()


def test_memory_that_is_full_at_once_is_bad_input_with_advice(
    copy_of, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command starts ranks and says in figures what would have helped."""
    road = copy_of("full", "train.validation_samples=0")

    def one_rank(*_: Any) -> int:
        with in_step(1, allocate), pytest.raises(UserError, match="out of memory on rank 0"):
            train_here(road)
        return 2

    monkeypatch.setattr(room, "start_processes", one_rank)
    assert main(["train", str(road.yaml_path), *road.overrides, "--runs", str(road.runs)]) == 2
    said = capsys.readouterr().err
    assert "rank 0 ran out of memory (" in said
    assert "by the estimate the fullest rank holds" in said
    for change in ("train.micro_batch_size=1", "parallel.recompute=full", "parallel.data=2"):
        assert f"  {change} " in said
    saved = [float(line.split("saves")[1].split()[0]) for line in said.splitlines()
             if "saves" in line and "GiB, leaves" in line]  # fmt: skip
    assert saved == sorted(saved, reverse=True)
    told = read_json(road.folder("50_train") / "out_of_memory.json")
    assert (told["rank"], told["world"], told["steps"]) == (0, 1, 0)
