"""Run the roads of a study here, a process each: what is done is left, what fails stops nothing.

A road begins when those that it needs are done; of one that failed, those that need it are left
out. Signals are passed on, and the same command goes on.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_math.base.errors import EXIT_STOPPED, UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.device.start import Process, die_with, kill_all, passing_signals_to
from megatron_math.pipeline import announce_road

LOG = "study.log"
LOOK_SECONDS = 0.05
Ending = Literal["done", "up to date", "failed", "left out", "stopped"]
GOOD = ("done", "up to date")


@dataclass(frozen=True)
class Task:
    """A road to make. budget: tokens that it must come to, and within what; None: no matter."""

    key: str
    road: Road
    needs: tuple[str, ...] = ()
    budget: tuple[int, int] | None = None

    @property
    def log(self) -> Path:
        return self.road.root / LOG


@dataclass(frozen=True)
class Outcome:
    """What became of a task; `why` of one that did not end well."""

    ending: Ending
    seconds: float = 0.0
    why: str = ""


def run_tasks(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    start: Callable[[Task, int], Process] | None = None,
    is_done: Callable[[Task], bool] | None = None,
) -> dict[str, Outcome]:
    """Make all tasks, `jobs` at a time, each behind what it needs; outcomes by key.

    start, is_done: how a process is started (task, jobs) and whether there is nothing to do.
    """
    start, is_done = start or start_process, is_done or is_up_to_date
    outcomes: dict[str, Outcome] = {}
    waiting = list(tasks)
    running: dict[str, tuple[Task, Process, float]] = {}
    children: list[Process] = []
    known = {task.key for task in tasks}
    with passing_signals_to(children) as passed:
        try:
            while waiting or running:
                for task in _ready(waiting, known, outcomes):
                    lost = [n for n in task.needs if n in known and not _is_good(outcomes[n])]
                    if lost:
                        outcomes[task.key] = Outcome("left out", why=f"it needs {lost[0]}")
                    elif passed:
                        outcomes[task.key] = Outcome("stopped", why="not begun")
                    elif len(running) == jobs:
                        break
                    elif is_done(task):
                        outcomes[task.key] = Outcome("up to date")
                    else:
                        process = start(task, jobs)
                        children.append(process)
                        for number in passed:  # it came while the process began
                            process.send_signal(number)
                        running[task.key] = task, process, time.monotonic()
                        log.info("%s: begun (%s)", task.key, task.log)
                    waiting.remove(task)
                for key, (task, process, since) in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[key]
                    children.remove(process)
                    outcomes[key] = _outcome(task, code, time.monotonic() - since, passed)
                    done = len(outcomes)
                    log.info("%s (%d of %d)", _words(key, outcomes[key]), done, len(tasks))
                if running:
                    time.sleep(LOOK_SECONDS)
        finally:
            kill_all(children)
    return outcomes


def _ready(waiting: Sequence[Task], known: set[str], outcomes: Mapping[str, Outcome]) -> list[Task]:
    return [t for t in waiting if all(n in outcomes for n in t.needs if n in known)]


def _is_good(outcome: Outcome) -> bool:
    return outcome.ending in GOOD


def _outcome(task: Task, code: int, seconds: float, passed: set[int]) -> Outcome:
    if code == 0:
        return Outcome("done", seconds)
    if code == EXIT_STOPPED or -code in passed:
        return Outcome("stopped", seconds, "the same command goes on")
    return Outcome("failed", seconds, f"exit code {code}: {_last_words(task.log)}")


def _last_words(path: Path) -> str:
    """The last line of a log that is of the program, else its last line."""
    if not path.is_file():
        return "it left no log"
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("megatron-math")]
    return (told or lines or ["its log is empty"])[-1]


def _words(key: str, outcome: Outcome) -> str:
    text = f"{key}: {outcome.ending}"
    if outcome.seconds:
        text += f" after {outcome.seconds:.0f} s"
    return f"{text}: {outcome.why}" if outcome.why else text


def start_process(task: Task, jobs: int) -> Process:
    """A process for one road, which writes to the road's own log; it goes when this one goes."""
    command = [
        *(sys.executable, "-m", "megatron_math.study.one_road", str(task.road.yaml_path)),
        *("--runs", str(task.road.runs)),
    ]
    if task.budget is not None:
        command += ["--tokens", str(task.budget[0]), "--within", str(task.budget[1])]
    environment = dict(os.environ)
    if jobs > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
            preexec_fn=die_with(os.getpid()),
        )


def is_up_to_date(task: Task) -> bool:
    """Nothing of the road would run, and its plan is within the budget."""
    from megatron_math.study.one_road import check_plan

    try:
        rows = announce_road(task.road)
        if any(text != "up to date" for _, text in rows):
            return False
        if task.budget is not None:
            check_plan(task.road, *task.budget)
    except UserError:
        return False  # the road's own process says what is wrong
    return True
