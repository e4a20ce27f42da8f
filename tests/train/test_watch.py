"""A run is killed, stopped, fails and ends: ledger, status, scrapes and alerts tell it truly."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from loaded import loaded
from scraped import parse, value
from test_resume import start_command, wait_for
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.cli import main
from megatron_math.device.start import PASSED_ON, free_port
from megatron_math.status.facts import gather
from megatron_math.status.find import find_runs
from megatron_math.status.queue import Queue
from megatron_math.train.feed import Feed
from megatron_math.train.run import read_order, train_rank
from megatron_math.train.watch import cause_of

SECRET = "hf_abcdefghijk"
ALERT = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
KILLED_IN_STEP_8 = """
import os, signal
from megatron_math.train.feed import Feed
real = Feed.microbatches
def microbatches(self, number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, number)
Feed.microbatches = microbatches
from megatron_math.train.__main__ import main
main()
"""


@contextmanager
def in_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """`act` is called inside step `step`, counted from 1, of a run in this process."""
    real = Feed.microbatches

    def microbatches(self: Feed, number: int) -> list:
        if number + 1 == step:
            act()
        return real(self, number)

    with mock.patch.object(Feed, "microbatches", microbatches):
        yield


def train_here(road: Road) -> None:
    handlers = {number: signal.getsignal(number) for number in PASSED_ON}
    try:
        train_rank(road, read_order(road))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def status_of(road: Road) -> dict[str, Any]:
    (target,) = find_runs([road.root], road.runs)
    return gather(target, lambda user: Queue([]))


class Story:
    """The run, what was said of it after each launch, and what was scraped inside the last."""

    road: Road
    said: list[dict[str, Any]]
    running: dict[str, Any]
    scraped: str
    scraped_row: dict[str, Any]
    alerts: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    shutil.copytree(prepared / "runs", folder / "runs", symlinks=True)
    (folder / "alert.py").write_text(ALERT)
    port = free_port()
    overrides = [
        "checkpoint.interval=5",
        "train.validation_samples=0",
        f"watch.prometheus={port}",
        f"watch.alert_command=[{sys.executable}, {folder / 'alert.py'}, {folder / 'alerts'}]",
    ]
    story = Story()
    story.road = road = Road.load(prepared / "road.yaml", overrides, folder / "runs")
    story.said = []

    (folder / "killed.py").write_text(KILLED_IN_STEP_8)
    command = [sys.executable, str(folder / "killed.py"), str(road.yaml_path), *overrides]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(free_port())}  # fmt: skip
    killed = loaded().start(
        [*command, "--runs", str(road.runs)], env=os.environ | alone, stderr=subprocess.PIPE
    )
    _, errors = killed.communicate(timeout=100)
    assert killed.returncode == -signal.SIGKILL, errors.decode()
    story.said.append(status_of(road))

    with in_step(9, lambda: os.kill(os.getpid(), signal.SIGUSR1)), pytest.raises(StoppedOnRequest):
        train_here(road)
    story.said.append(status_of(road))

    def fail() -> None:
        raise RuntimeError(f"planted {SECRET} https://me:pass@host/x\nand more")

    with (
        mock.patch.dict(os.environ, {"HF_TOKEN": SECRET}),
        in_step(13, fail),
        pytest.raises(RuntimeError),
    ):
        train_here(road)
    story.said.append(status_of(road))

    def look() -> None:
        story.running = status_of(road)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            story.scraped = answer.read().decode()
        story.scraped_row = metrics(road)[-1]

    with in_step(16, look):
        train_here(road)
    story.said.append(status_of(road))
    story.alerts = [json.loads(line) for line in (folder / "alerts").read_text().splitlines()]
    return story


def test_every_cause_is_named_and_lost_steps_are_counted(story: Story) -> None:
    killed, stopped, failed, done = story.said
    assert (killed["state"], killed["iteration"]) == ("died", 7)
    assert killed["launches"][0]["cause"] == "killed"
    assert killed["why"].startswith("killed: its process is gone; last sign ")
    assert (stopped["state"], stopped["iteration"]) == ("stopped", 9)
    assert stopped["why"].startswith("stopped on request (SIGUSR1), ")
    assert (failed["state"], failed["iteration"]) == ("died", 12)
    assert failed["why"].startswith("error: RuntimeError: planted <HF_TOKEN> https://***@host/x, ")
    assert (done["state"], done["iteration"], done["iterations"]) == ("done", 22, 22)
    launches = done["launches"]
    assert [one["cause"].split(":")[0] for one in launches] == [
        "killed", "stopped on request (SIGUSR1)", "error", "done",
    ]  # fmt: skip
    assert [(one["iteration"], one["reached"], one["repeats"]) for one in launches] == [
        (0, 7, 0), (5, 9, 2), (9, 12, 0), (10, 22, 2),
    ]  # fmt: skip
    assert [one["from"] for one in launches] == [
        "base", "iter_0000005", "iter_0000009", "iter_0000010",
    ]  # fmt: skip
    assert [said["steps_repeated"] for said in story.said] == [0, 2, 2, 4]
    assert done["restarts"] == 3


def test_the_clock_adds_up(story: Story) -> None:
    for said in story.said:
        spent, wall = said["spent_seconds"], said["wall_seconds"]
        assert sum(spent.values()) == pytest.approx(wall, abs=0.01)
        assert 0 < said["effective_share"] < 1
    rows = metrics(story.road)
    steps = sum(row["elapsed_ms"] for row in rows) / 1000
    assert story.said[-1]["spent_seconds"]["steps"] == pytest.approx(steps, abs=1e-6)
    for launch in story.said[-1]["launches"]:
        assert 0 < launch["first_step_after_seconds"] < 120
    assert all(abs(row["time"] - time.time()) < 3600 for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_it_is_seen_running_with_its_checkpoint_and_the_way_to_go(story: Story) -> None:
    seen = story.running
    assert (seen["state"], seen["iteration"]) == ("running", 15)
    assert seen["checkpoints"]["newest_good"]["name"] == "iter_0000015"
    assert seen["checkpoints"]["damaged"] == []
    assert seen["estimate"]["steps"] == 7
    assert 0 < seen["estimate"]["seconds"] < seen["estimate"]["seconds_with_losses"]
    assert seen["stages"] == [
        {"stage": "train", "steps": 15, "of": 22, "tokens": story.scraped_row["consumed_tokens"]}
    ]
    assert seen["speed"]["now"] > 0
    assert seen["problems"] == []


def test_a_scrape_is_the_last_row_digit_by_digit(story: Story) -> None:
    samples, kinds = parse(story.scraped)
    row = story.scraped_row
    run = {"run": story.road.name}
    for name, key in (
        ("loss", "lm loss"), ("grad_norm", "grad-norm"), ("learning_rate", "learning-rate"),
        ("tokens_per_second", "tokens_per_second"), ("iteration", "iteration"),
        ("consumed_tokens", "consumed_tokens"), ("consumed_samples", "consumed_samples"),
        ("last_step_time_seconds", "time"), ("tflops", "tflops"),
    ):  # fmt: skip
        assert value(samples, f"megatron_math_{name}", **run) == row[key], name
    assert value(samples, "megatron_math_step_seconds", **run) == row["elapsed_ms"] / 1000
    for source in ("general", "problems"):
        found = value(samples, "megatron_math_loss_by_source", **run, source=source)
        assert found == row[f"loss/{source}"]
    memory = value(samples, "megatron_math_memory_peak_bytes", **run, kind="process")
    assert memory == row["peak_process_bytes"]
    assert value(samples, "megatron_math_restarts", **run) == 3
    assert value(samples, "megatron_math_iterations_planned", **run) == 22
    saved = story.road.folder("50_train") / "checkpoints" / "iter_0000015" / "complete.json"
    assert value(samples, "megatron_math_last_checkpoint_time_seconds", **run) == pytest.approx(
        saved.stat().st_mtime
    )
    ours = metrics(story.road)[10:15]  # of this launch
    for phase in ("forward_backward", "optimizer", "other"):
        seconds = sum(one["phases_ms"][phase] for one in ours) / 1000
        found = value(samples, "megatron_math_phase_seconds_total", **run, phase=phase)
        assert found == pytest.approx(seconds, abs=1e-9), phase
    assert kinds["megatron_math_phase_seconds_total"] == "counter"


def test_each_launch_that_could_told_its_end_once(story: Story) -> None:
    told = [(one["event"], one["iteration"], one["run"]) for one in story.alerts]
    name = story.road.name
    assert told == [("stop", 9, name), ("error", 12, name), ("done", 22, name)]
    assert story.alerts[0]["message"] == "stopped on request (SIGUSR1)"
    assert SECRET not in json.dumps(story.alerts)


def test_watching_is_no_part_of_the_run(story: Story) -> None:
    folder = story.road.folder("50_train")
    assert "watch" not in read_json(folder / "manifest.json")["config"]
    plain = Road.load(story.road.yaml_path, story.road.overrides[:2], story.road.runs)
    assert read_order(plain).stage.is_done()


def test_the_command_prints_it(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    road = story.road
    assert main(["status", str(road.yaml_path), "--runs", str(road.runs), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["launches"] == story.said[-1]["launches"]
    assert main(["status", str(road.root)]) == 0
    text = capsys.readouterr().out
    assert "22 of 22 (100.0 %)" in text
    assert "3, 4 steps repeated" in text
    assert "(SIGUSR1)" in text
    assert "error: RuntimeError: planted <HF_TOKEN>" in text
    assert main(["status", str(road.runs), str(road.root / "50_train")]) == 0
    assert main(["status", str(road.root / "00_base")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_hanging_alert_command_and_a_port_in_use_do_not_hold_training(copy_of) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        road = copy_of(
            "hanging", "train.validation_samples=0", "watch.alert_command=[sleep, '1000']",
            "watch.alert_limit_seconds=1", "watch.spike_deviations=0.01", "watch.spike_steps=10",
            f"watch.prometheus={taken.getsockname()[1]}",
        )  # fmt: skip
        begin = time.monotonic()
        train_here(road)
        assert time.monotonic() - begin < 200
    assert status_of(road)["state"] == "done"


def test_a_signal_while_everything_loads_is_a_stop_and_one_rank_says_so(copy_of) -> None:
    road = copy_of("early", "parallel.data=2")
    process = start_command(road)
    ledger = road.folder("50_train") / "launches.jsonl"
    assert wait_for(ledger.exists, process)  # the first thing that a rank does
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=200)
    assert process.returncode == 75
    found = status_of(road)
    assert (found["state"], found["iteration"]) == ("stopped", None)
    (launch,) = found["launches"]
    assert launch["world"] == 2
    assert launch["cause"] == "stopped on request (SIGUSR1)"


def test_causes_have_one_line_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert cause_of(ValueError("a\nb")) == "error: ValueError: a"
    assert cause_of(MemoryError()) == "error: MemoryError"
    assert "0123" not in cause_of(OSError("GET ?key=0123456789abcdef failed"))
    assert cause_of(KeyboardInterrupt()) == "stopped on request (SIGINT)"
