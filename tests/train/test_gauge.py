"""Delays, memory and peaks that are planted are found where they were planted; a trace is one."""

import gzip
import json
import logging
import mmap
import shutil
import signal
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from test_resume import TIMING
from train_roads import metrics

import megatron_math.device.gauge as device_gauge
import megatron_math.train.optimizer as optimizer_module
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.checkpoint.saver import Saver
from megatron_math.device.peak import GPU_FILES, peak_flops
from megatron_math.device.start import PASSED_ON
from megatron_math.estimate.hardware import GPUS, load_gpu
from megatron_math.train.feed import Feed
from megatron_math.train.gauge import Phases, Profile, milliseconds
from megatron_math.train.loop import _agreed
from megatron_math.train.run import read_order, train_rank

DELAY = 60.0
PLANTED = {"data": range(4, 18, 3), "reduce": range(5, 18, 3), "optimizer": range(6, 18, 3)}
"""Iterations, counted from 1, in which a phase takes DELAY seconds more by the clock, which is put
on: nothing waits, and nothing else on the machine can take as long."""
HUNGRY = 18
"""The iteration that takes memory for a moment."""


class PlantedClock:
    """Marks are seconds that the test sets."""

    now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


def test_phases_take_no_time_twice_and_leave_none_out() -> None:
    clock = PlantedClock()
    phases = Phases(clock)

    def pass_(seconds: float) -> None:
        clock.now += seconds

    pass_(1)
    with phases("data"):
        pass_(2)
    with phases("forward_backward"):
        pass_(4)
        phases.timed("reduce", pass_)(8)
        pass_(16)
    with pytest.raises(ZeroDivisionError), phases("data"):
        pass_(32)
        _ = 1 / 0
    pass_(64)
    step = phases.take()
    assert step == {"data": 34, "forward_backward": 20, "reduce": 8}
    assert milliseconds(step, clock.now)["other"] == 65e3
    with phases("save"):
        pass_(3)
    assert phases.take() == {"save": 3}
    assert phases.take() == {}
    assert phases.totals == step | {"save": 3}


def train_here(road: Road) -> None:
    """In this process, where faults can be planted, as its only rank."""
    handlers = {number: signal.getsignal(number) for number in PASSED_ON}
    try:
        train_rank(road, read_order(road))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def in_status(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def planted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A run that is late in one phase after the other, and once takes memory for a moment."""
    runs = tmp_path_factory.mktemp("planted") / "runs"
    shutil.copytree(prepared / "runs", runs, symlinks=True)
    road = Road.load(prepared / "road.yaml", (), runs)
    iteration, put_on, perf_counter = 0, 0.0, time.perf_counter

    def late(phase: str) -> None:
        nonlocal put_on
        put_on += DELAY * (iteration in PLANTED[phase])

    microbatches, build = Feed.microbatches, optimizer_module.build_optimizer
    finalize = optimizer_module.finalize_model_grads

    def clock() -> float:
        return perf_counter() + put_on

    def late_microbatches(self: Feed, number: int) -> list:
        nonlocal iteration
        iteration = number + 1
        late("data")
        if iteration == HUNGRY:
            size = in_status("VmHWM") - in_status("VmRSS") + (200 << 20)
            with mmap.mmap(-1, size) as block:  # past malloc, which may have kept some
                block[::4096] = b"1" * len(range(0, size, 4096))
        return microbatches(self, number)

    def late_finalize(*args: object, **kwargs: object) -> None:
        late("reduce")
        finalize(*args, **kwargs)

    def late_optimizer(*args: object, **kwargs: object) -> object:
        optimizer = build(*args, **kwargs)
        step = optimizer.step

        def late_step() -> object:
            late("optimizer")
            return step()

        optimizer.step = late_step
        return optimizer

    with (
        mock.patch.object(time, "perf_counter", clock),
        mock.patch.object(Feed, "microbatches", late_microbatches),
        mock.patch.object(optimizer_module, "finalize_model_grads", late_finalize),
        mock.patch.object(optimizer_module, "build_optimizer", late_optimizer),
    ):
        train_here(road)
    return road


def undelayed_rows(planted: Road) -> list[dict]:
    delayed = set().union(*PLANTED.values())
    return [row for row in metrics(planted) if row["iteration"] not in delayed]


def test_a_delay_is_seen_in_its_phase_and_nowhere_else(planted: Road) -> None:
    rows = metrics(planted)
    phases = {"data", "forward_backward", "reduce", "optimizer", "guards", "other"}

    undelayed = {row["iteration"] for row in undelayed_rows(planted)}

    def least(phase: str, iterations: range | set[int]) -> float:
        """Other work on the machine only adds."""
        return min(row["phases_ms"][phase] for row in rows if row["iteration"] in iterations)

    for row in rows:
        assert set(row["phases_ms"]) == phases
        assert sum(row["phases_ms"].values()) == pytest.approx(row["elapsed_ms"], abs=0.01)
    for late, iterations in PLANTED.items():
        for phase in phases:
            more = least(phase, iterations) - least(phase, undelayed)
            assert (more > DELAY * 900) == (phase == late), (late, phase, more)
    rest = [row["phases_ms"]["other"] / row["elapsed_ms"] for row in undelayed_rows(planted)]
    assert statistics.median(rest) < 0.1


def test_validation_and_saving_are_timed_between_steps(planted: Road) -> None:
    between = {row["iteration"]: set(row.get("between_ms", ())) for row in metrics(planted)}
    assert {i: names for i, names in between.items() if names} == {
        1: {"validation"}, 11: {"validation"}, 21: {"validation"},
    }  # fmt: skip
    last = (planted.folder("50_train") / "log.txt").read_text().splitlines()[-1]
    assert last.startswith(" time by phase of this launch (s) | validation: ")
    assert " | save: " in last  # behind the last step: in no row


def test_memory_that_was_given_back_is_in_the_peak(planted: Road) -> None:
    peaks = {row["iteration"]: row["peak_process_bytes"] for row in metrics(planted)}
    assert peaks[HUNGRY] - peaks[HUNGRY - 1] > 150 << 20
    assert peaks[HUNGRY + 1] >= peaks[HUNGRY]  # though it is free again


def test_the_fullest_rank_counts_and_any_signal(tmp_path: Path) -> None:
    """And a checkpoint that another rank could not write is given up here."""
    device = SimpleNamespace(kind="cpu", torch_device=torch.device("cpu"), rank=1)
    saver = Saver(tmp_path, 1, 2, "launch", pending=30)
    run = SimpleNamespace(trainee=SimpleNamespace(device=device), saver=saver)

    def agreed(others: list[int]) -> object:
        def with_another_rank(values: torch.Tensor, op: object) -> None:
            assert op is torch.distributed.ReduceOp.MAX
            values.copy_(torch.maximum(values, torch.tensor(others)))

        with mock.patch.object(torch.distributed, "all_reduce", with_another_rank):
            return _agreed(0, run)  # type: ignore[arg-type]

    fullest = {"peak_process_bytes": 7 << 40}
    assert agreed([signal.SIGUSR1, -1, 7 << 40]) == (signal.SIGUSR1, fullest)
    assert saver.pending == 30
    assert agreed([0, 30, 7 << 40]) == (0, fullest)
    assert (saver.pending, saver.failed) == (None, None)


def test_both_conventions_by_hand(planted: Road) -> None:
    """Width 64, 4 heads, 2 groups, feed-forward 160, 4 layers, 500 words, 64 tokens."""
    weights = 4 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 160) + 500 * 64
    full, half = weights + 4 * 2 * 64 * 64, weights + 4 * 2 * 64 * 32.5
    for row in undelayed_rows(planted):
        assert row["tflops_full"] / row["tflops"] == pytest.approx(full / half, rel=5e-3)
        seconds = row["elapsed_ms"] / 1e3
        assert row["tflops_full"] == pytest.approx(6 * full * 8 * 64 / seconds / 1e12, abs=1e-6)
        assert "mfu" not in row  # a CPU has no peak here


def test_a_profiled_run_has_a_trace_an_mfu_and_the_same_losses(planted: Road, copy_of) -> None:
    """With a planted peak of 2 TFLOP/s."""
    road: Road = copy_of("profiled", "train.profile.first=3", "train.profile.steps=2")
    with mock.patch.object(device_gauge, "device_peak", return_value=("planted", 2e12)):
        train_here(road)
    (trace,) = (road.folder("50_train") / "profile").iterdir()
    assert trace.name == "rank0_iterations_3-4.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    for phase in ("data", "forward_backward", "reduce", "optimizer"):
        assert names.count(phase) == 2, phase
    assert "aten::mm" in names
    assert not (planted.folder("50_train") / "profile").exists()

    rows = metrics(road)
    for row in rows:
        assert row.pop("mfu") == pytest.approx(row["tflops"] / 2, abs=1e-6)
        assert row.pop("mfu_peak") == "fp32"
    for ours, theirs in zip(rows, metrics(planted), strict=True):
        assert {k: v for k, v in ours.items() if k not in TIMING} == {
            k: v for k, v in theirs.items() if k not in TIMING
        }
    profiled = Road.load(planted.yaml_path, ["train.profile={}"], planted.runs)
    assert read_order(profiled).stage.is_done()  # another trace is no other run
    other = Road.load(planted.yaml_path, ["train.lr=2e-3"], planted.runs)
    assert not read_order(other).stage.is_done()


def test_a_profile_of_nothing_is_refused_or_said(copy_of, caplog, tmp_path: Path) -> None:
    for override, says in (
        ("train.profile.ranks=[0,1]", r"ranks \[1\]: there are 1 processes"),
        ("train.profile.tool=nsys", "nsys looks at GPUs"),
    ):
        with pytest.raises(UserError, match=says):
            train_here(copy_of(override[14:18], override))
    config = read_order(copy_of("late", "train.profile={}")).train.profile
    device = SimpleNamespace(kind="cpu", rank=0, world=1)
    profile = Profile(config, tmp_path / "profile", device, Phases())  # type: ignore[arg-type]
    with profile.step(0):
        pass
    with caplog.at_level(logging.WARNING, logger="megatron_math"):
        logging.getLogger("megatron_math").propagate = True
        profile.close(1)
    assert "this launch made 1 steps and first is 10" in caplog.text
    assert not (tmp_path / "profile").exists()


def test_peaks_are_those_that_estimate_takes() -> None:
    called = [(name, called) for name in GPUS for called in load_gpu(name).called]
    assert len({one for _, one in called}) == len(called)
    assert ("h200", "NVIDIA H200") in called
    for name, one in called:
        for precision in ("fp32", "bf16", "fp8", "mxfp8"):
            assert peak_flops(one, precision) == load_gpu(name).peak_flops.get(precision)
    assert peak_flops("NVIDIA H100 PCIe", "bf16") is None  # not an SXM
    assert (GPU_FILES / "h200.yaml").is_file()
