"""Many roads, a process each: order, failures that stop nothing, what is left alone, stops."""

import os
import signal
from pathlib import Path

import pytest
from study_files import FakeProcess, FakeRuns

from megatron_math.base.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from megatron_math.base.road import Road
from megatron_math.study.campaign import LOG, Outcome, Task, run_tasks
from megatron_math.study.verb import ended


def task(folder: Path, key: str, *needs: str) -> Task:
    root = folder / key
    return Task(key, Road(key, 1, folder, root, root / "road.yaml", (), {}), needs)


def run(tasks: list[Task], runs: FakeRuns, jobs: int = 1) -> dict[str, str]:
    found = run_tasks(tasks, jobs=jobs, start=runs.start, is_done=runs.is_done)
    return {key: outcome.ending for key, outcome in found.items()}


def test_all_are_made_each_behind_what_it_needs(tmp_path: Path) -> None:
    runs = FakeRuns()
    tasks = [task(tmp_path, "tuned", "base"), task(tmp_path, "base"), task(tmp_path, "other")]
    assert set(run(tasks, runs).values()) == {"done"}
    assert runs.started == ["base", "tuned", "other"]
    assert runs.most_at_once == 1


def test_several_at_a_time(tmp_path: Path) -> None:
    runs = FakeRuns()
    run([task(tmp_path, str(number)) for number in range(5)], runs, jobs=2)
    assert runs.most_at_once == 2
    assert len(runs.started) == 5


def test_one_that_fails_stops_no_other_and_leaves_out_those_behind_it(tmp_path: Path) -> None:
    runs = FakeRuns(codes={"bad": 1})
    tasks = [task(tmp_path, "bad"), task(tmp_path, "behind", "bad"), task(tmp_path, "good")]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / LOG).write_text("a line\nmegatron-math: the disk is full\na trace\n")
    found = run_tasks(tasks, start=runs.start, is_done=runs.is_done)
    assert [found[key].ending for key in ("bad", "behind", "good")] == [
        "failed",
        "left out",
        "done",
    ]
    assert found["bad"].why == "exit code 1: megatron-math: the disk is full"
    assert found["behind"].why == "it needs bad"
    assert ended(found) == EXIT_FAILED


def test_a_restart_makes_only_what_is_missing(tmp_path: Path) -> None:
    runs = FakeRuns(done={"base", "good"})
    tasks = [task(tmp_path, "base"), task(tmp_path, "good", "base"), task(tmp_path, "bad", "base")]
    assert run(tasks, runs) == {"base": "up to date", "good": "up to date", "bad": "done"}
    assert runs.started == ["bad"]


def test_a_signal_is_handed_on_and_nothing_more_begins(tmp_path: Path) -> None:
    process = FakeProcess(patience=1000)
    started = []

    def start(task: Task, jobs: int) -> FakeProcess:
        started.append(task.key)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    tasks = [task(tmp_path, "first"), task(tmp_path, "second"), task(tmp_path, "behind", "first")]
    found = run_tasks(tasks, start=start, is_done=lambda _: False)
    assert started == ["first"]
    assert process.signals[0] == signal.SIGTERM
    assert [found[key].ending for key in ("first", "second", "behind")] == [
        "stopped",
        "stopped",
        "left out",
    ]
    assert ended(found) == EXIT_STOPPED


def test_a_road_that_stopped_on_request_is_no_failure(tmp_path: Path) -> None:
    runs = FakeRuns(codes={"one": EXIT_STOPPED})
    assert run([task(tmp_path, "one")], runs) == {"one": "stopped"}


@pytest.mark.parametrize(
    ("endings", "code"),
    [
        (["done", "up to date"], EXIT_DONE),
        (["done", "stopped", "left out"], EXIT_STOPPED),
        (["done", "stopped", "failed"], EXIT_FAILED),
    ],
)
def test_exit_codes(endings: list, code: int) -> None:
    assert ended({str(i): Outcome(ending) for i, ending in enumerate(endings)}) == code
