"""Events come once and in order; a command that hangs, fails or is not there harms nothing."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.watch.alerts import Alerts
from megatron_math.watch.config import WatchConfig
from megatron_math.watch.rules import BadSteps, Spikes, StallTimer

APPEND = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


@pytest.fixture
def log_text(caplog: pytest.LogCaptureFixture):
    logging.getLogger("megatron_math").propagate = True
    with caplog.at_level(logging.INFO, logger="megatron_math"):
        yield lambda: caplog.text


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_command_gets_each_event_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a path; touch $(shell)"
    alerts = Alerts("study/cpt", [sys.executable, "-c", APPEND, str(path)])
    alerts.tell("spike", 7, 'loss "high"\n')
    alerts.tell("stop", None, "stopped on request (SIGUSR1)")
    alerts.close()
    first, second = told(path)
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {"event": "spike", "run": "study/cpt", "iteration": 7,
                     "message": 'loss "high"\n'}  # fmt: skip
    assert (second["event"], second["iteration"]) == ("stop", None)
    assert alerts.counts == {"spike": 1, "stop": 1}


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, log_text) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $$ $! > {pids}; wait"
    alerts = Alerts("r", ["sh", "-c", script], limit_seconds=2.0)
    begin = time.monotonic()
    alerts.tell("spike", 1, "one")
    alerts.tell("spike", 2, "two")
    assert time.monotonic() - begin < 1
    alerts.close()
    assert time.monotonic() - begin < 100
    for pid in map(int, pids.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"
    assert "took over 2 s and was ended" in log_text()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([sys.executable, "-c", "import sys; sys.exit(3)  # token-123"], "ended with 3"),
        (["/no/such/program", "token-123"], "cannot be run: FileNotFoundError"),
        (["true"], None),  # reads nothing of its input
    ],
)
def test_a_command_that_fails_is_logged_without_its_arguments(command, says, log_text) -> None:
    alerts = Alerts("r", command)
    alerts.tell("error", 3, "x" * 200_000)
    alerts.close()
    assert says is None or says in log_text()
    assert "token-123" not in log_text()


def test_too_many_events_are_dropped_and_do_not_wait(log_text) -> None:
    alerts = Alerts("r", ["sleep", "1000"], limit_seconds=0.5)
    begin = time.monotonic()
    for number in range(150):
        alerts.tell("spike", number, "again")
    alerts.close()
    assert time.monotonic() - begin < 60
    assert "this one is lost" in log_text()
    assert alerts.counts["spike"] == 150


def row(loss: float | None, stage: str = "cpt", **more: Any) -> dict[str, Any]:
    return {"lm loss": loss, "grad-norm": 1.0, "stage": stage} | more


def test_bad_steps_in_a_row_are_told_once() -> None:
    rule = BadSteps(3)
    bad = [row(math.nan), row(1.0, skipped=True), row(2.0, **{"grad-norm": math.inf}), row(None)]
    assert [bool(rule.step(one)) for one in (*bad, row(1.0), *bad)] == [
        False, False, True, False, False, False, False, True, False,
    ]  # fmt: skip


def test_a_spike_is_told_once_and_a_noisy_loss_is_none() -> None:
    """Losses spread evenly from 1.9 to 2.1: the median absolute deviation is about 0.06."""
    rule = Spikes(10.0, 100)
    usual = [2.0 + 0.02 * (7 * number % 11 - 5) for number in range(40)]
    assert not any(rule.step(row(loss)) for loss in usual)
    assert rule.step(row(2.4)) is None
    message = rule.step(row(3.2))
    assert message is not None
    assert message.startswith("loss 3.2000 is ")
    assert rule.step(row(3.3)) is None  # the same spike
    assert rule.step(row(2.0)) is None
    assert rule.step(row(4.0)) is not None  # another one
    assert rule.step(row(9.0, stage="sft")) is None  # another stage has another loss
    assert rule.step(row(math.nan)) is None


def test_silence_is_told_once_a_stall_with_the_place() -> None:
    found: list[tuple[float, str]] = []
    timer = StallTimer(2.0, 0.3, lambda: "save", lambda *what: found.append(what))
    time.sleep(0.5)
    assert found == []  # no step yet
    timer.step(0.05, 0.0)
    end = time.monotonic() + 30
    while not found and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    assert len(found) == 1
    timer.step(0.05, 30.0)  # there was a long pause before: such a one is none
    time.sleep(0.6)
    timer.close()
    ((seconds, where),) = found
    assert seconds > 0.3
    assert where == "save"


def test_settings_without_effect_are_refused_and_none_is_identity() -> None:
    for name, fault in (
        ("prometheus_address", {"prometheus_address": "0.0.0.0"}),
        ("alert_limit_seconds", {"alert_limit_seconds": 3}),
        ("spike_steps", {"spike_deviations": None, "spike_steps": 20}),
    ):
        with pytest.raises(UserError, match=f"{name} has no effect without"):
            parse_section(WatchConfig, fault, "watch")
    asked = {"prometheus": 9400, "alert_command": ["true"]}
    assert parse_section(WatchConfig, asked, "watch").identity() == {}
