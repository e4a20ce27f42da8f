"""The ledger: one writer, torn lines, processes that are gone; effective time against a hand's."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hand_made_run import event, step, write_hand_made, write_lines

from megatron_math.watch.launches import (
    FILE,
    Ledger,
    is_gone,
    process_name,
    read_launches,
    rows_behind,
)
from megatron_math.watch.progress import pace_seconds, read_progress, stall_limit_seconds


def test_effective_time_of_a_hand_computed_run(tmp_path: Path) -> None:
    write_hand_made(tmp_path)
    found = read_progress(tmp_path)
    assert found.problems == []
    assert found.wall_seconds == 116
    assert found.effective_share == pytest.approx(20 / 116)
    # starting: 10 + 0 + 7 + 4; down: 1017 to 1030, 1030 to 1050, 1063 to 1100.
    assert found.spent == {"steps": 20, "repeated": 2, "starting": 21, "down": 70, "other": 3}
    assert sum(found.spent.values()) == found.wall_seconds
    assert found.steps_repeated == 2
    assert found.reached == [7, None, 9, 20]
    assert found.last_signs == [1017, 1030, 1063, 1116]
    assert [found.cause(number) for number in range(4)] == [
        "killed", "killed while loading", "error: RuntimeError: planted", "done",
    ]  # fmt: skip
    assert pace_seconds(found) == 1.0


def test_a_launch_that_made_no_step_loses_none(tmp_path: Path) -> None:
    """It goes back further, because a checkpoint was damaged: the older launch's steps are lost."""
    write_lines(
        tmp_path / FILE,
        [
            event(0, "begin", 0.0), event(0, "loaded", 1.0, iteration=0),
            event(0, "step", 3.0, iteration=1, seconds=1.0),
            event(1, "begin", 20.0),
            event(1, "loaded", 21.0, iteration=6,
                  before={"iteration": 8, "time": 10.0, "steps": 2, "seconds": 2.0}),
            event(2, "begin", 30.0),
            event(2, "loaded", 31.0, iteration=3,
                  before={"iteration": 6, "time": 8.0, "steps": 3, "seconds": 3.0}),
        ],
    )  # fmt: skip
    write_lines(tmp_path / "metrics.jsonl", [step(n, 2.0 + n) for n in (1, 2, 3)])
    found = read_progress(tmp_path)
    assert found.steps_repeated == 5
    assert found.reached == [8, 6, 3]
    assert found.cause(1) == "killed before its first step"
    assert found.cause(2) is None


def test_the_writer_counts_on_cuts_a_torn_line_and_writes_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / FILE
    first = Ledger(tmp_path, world=2)
    first.loaded(0, "base", [("cpt", 0, 20)], None)
    first.stepped(1, 0.5)
    with open(path, "a") as file:
        file.write('{"event": "end", "ti')
    assert read_launches(path)[1] == []
    second = Ledger(tmp_path, world=2)
    second.end("stopped on request (SIGUSR1)", 4)
    second.end("error: this came of it", 4)
    launches, problems = read_launches(path)
    assert problems == []
    assert [launch.number for launch in launches] == [0, 1]
    assert launches[0].stages == [{"stage": "cpt", "first": 0, "end": 20}]
    assert (launches[0].cause, launches[1].cause) == (None, "stopped on request (SIGUSR1)")
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["begin", "loaded", "step", "begin", "end"]


def test_what_cannot_be_written_or_read_is_said_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("megatron_math").propagate = True
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "50_train", world=1)
    ledger.end("done", 3)
    assert "no line 'end' in" in caplog.text

    write_lines(tmp_path / FILE, [event(4, "step", 1.0), {"event": 3}], "garbage\n[1]\n\xff")
    write_lines(tmp_path / "metrics.jsonl", [step(1, 1.0), {"iteration": "x"}], "nonsense\n{")
    found = read_progress(tmp_path)
    assert len(found.rows) == 1
    assert found.launches == []
    assert len(found.problems) == 6
    assert read_progress(tmp_path / "nothing").rows == []


def test_rows_behind_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert rows_behind(path, 3) is None
    rows = [step(number, 100.0 + number, 0.5) for number in range(1, 8)]
    write_lines(path, rows, '{"iteration": 8, "elap')
    assert rows_behind(path, 5) == {"iteration": 7, "time": 107.0, "steps": 2, "seconds": 1.0}
    assert rows_behind(path, 7) == {"iteration": 7, "time": 107.0, "steps": 0, "seconds": 0.0}
    assert rows_behind(path, -1) == {"iteration": 7, "time": 107.0, "steps": 7, "seconds": 3.5}


def test_a_process_that_is_gone_is_known_on_its_own_machine_only() -> None:
    code = (
        "from megatron_math.watch.launches import process_name as name\n"
        "print(name(), flush=True)\n"
        "input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert is_gone(name) is False
    boot, namespace, pid, started = name.split("/")
    assert pid == str(child.pid)
    assert is_gone("/".join(("another boot", namespace, pid, started))) is None
    assert is_gone("/".join((boot, namespace, pid, str(int(started) - 1)))) is True  # used again
    child.communicate("\n", timeout=10)
    assert is_gone(name) is True
    assert is_gone(None) is None
    assert is_gone("nonsense") is None
    assert process_name().split("/")[2] == str(os.getpid())


def test_what_a_stall_is() -> None:
    assert stall_limit_seconds([1, 2, 100], [50.0], 20, 10) == 90
    assert stall_limit_seconds([], [], 20, 10) == 10
