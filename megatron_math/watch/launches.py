"""launches.jsonl: a line when a launch of a run begins, is loaded, ends its first step, and ends.

The rank that logs writes it. A launch that has no line of its end was killed. Bytes are fixed in
docs/formats.md.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_math.base.log import log

FILE = "launches.jsonl"
KILLED = "killed"
LONGEST_CAUSE = 300


class Ledger:
    """Of one launch, open from its begin on. A full disk costs lines here, never the training."""

    def __init__(self, folder: Path, *, world: int, joins: bool = False) -> None:
        """joins: writes into the last launch, whose own writer cannot."""
        self._path = folder / FILE
        self._has_ended = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cut_torn(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s); `status` will know less", self._path, error)
        events, _ = read_events(self._path)
        self.number = _num_begins(events) - joins
        self.restart = _number(os.environ.get("TORCHELASTIC_RESTART_COUNT")) or 0
        """How many times its launcher has started these ranks again."""
        before = (e for e in events if e["launch"] == self.number - 1 and e["event"] == "end")
        self.cause_before: str | None = next((e["cause"] for e in reversed(list(before))), None)
        """How the launch before ended; None: unknown."""
        if joins:
            return
        self._write(
            "begin",
            world=world,
            host=socket.gethostname(),
            process=process_name(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            slurm_name=os.environ.get("SLURM_JOB_NAME"),
            slurm_restart=_number(os.environ.get("SLURM_RESTART_COUNT")),
            restart=self.restart,
        )

    def loaded(
        self,
        iteration: int,
        source: str,
        stages: Sequence[tuple[str, int, int]],
        before: Mapping[str, Any] | None,
    ) -> None:
        """Weights are there. before: what `rows_behind` found that this launch repeats."""
        named = [{"stage": name, "first": first, "end": end} for name, first, end in stages]
        self._write(
            "loaded",
            **{"iteration": iteration, "from": source, "stages": named, "before": before},
        )

    def stepped(self, iteration: int, seconds: float) -> None:
        """The first step of this launch ended; it took so long."""
        self._write("step", iteration=iteration, seconds=round(seconds, 6))

    def noted(self, event: str, iteration: int | None, message: str) -> None:
        """Something of which `status` is to know: a rank that is frozen, stuck or slow."""
        self._write("noted", what=event, iteration=iteration, message=message[:LONGEST_CAUSE])

    def end(self, cause: str, iteration: int | None) -> None:
        """Only the first call counts: what comes after a cause is its consequence."""
        if not self._has_ended:
            self._has_ended = True
            self._write("end", iteration=iteration, cause=cause[:LONGEST_CAUSE])

    def _write(self, event: str, **facts: Any) -> None:
        _append(self._path, event, self.number, facts)


def _append(path: Path, event: str, launch: int, facts: Mapping[str, Any]) -> None:
    at = round(time.time(), 3)
    head = {"event": event, "time": at, "launch": launch}
    line = (json.dumps(head | dict(facts)) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("no line '%s' in %s: %s", event, path, error)


def num_launches(folder: Path) -> int:
    """Launches of this run that have begun."""
    return _num_begins(read_events(folder / FILE)[0])


def end_launch(folder: Path, number: int, cause: str, iteration: int | None) -> None:
    """The end of a launch, by who saw all of its processes gone; it counts more than their own."""
    with contextlib.suppress(OSError):
        cut_torn(folder / FILE)
    _append(folder / FILE, "end", number, {"iteration": iteration, "cause": cause[:LONGEST_CAUSE]})


def _num_begins(events: Iterable[Mapping[str, Any]]) -> int:
    return sum(event["event"] == "begin" for event in events)


def cut_torn(path: Path) -> None:
    """Remove what stands behind the last whole line."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def process_name() -> str:
    """This process as `is_gone` looks for it: boot, PID namespace, PID, start in clock ticks."""
    pid = os.getpid()
    _, started = _state(pid) or ("", "")
    return "/".join([*_here(), str(pid), started])


def state_of(process: str | None) -> str | None:
    """The state of the process of a ledger, one letter as in `ps`; None where it is not known."""
    *place, pid, started = ["", "", *(process or "").split("/")]
    if not pid.isdigit() or tuple(place) != ("", "", *_here()):
        return None
    state = _state(int(pid))
    return None if state is None or state[1] != started else state[0]


def is_gone(process: str | None) -> bool | None:
    """Whether the process of a ledger has ended; None where this machine cannot know."""
    *place, pid, started = ["", "", *(process or "").split("/")]
    if not pid.isdigit() or tuple(place) != ("", "", *_here()):
        return None
    state = _state(int(pid))
    return state is None or state[0] in "ZX" or state[1] != started


def _state(pid: int) -> tuple[str, str] | None:
    """State and start of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _here() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "", ""


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


@dataclass
class Launch:
    """What the ledger says of one launch; None is what it does not say."""

    number: int
    begin: float
    host: str | None = None
    world: int | None = None
    process: str | None = None
    slurm_job: str | None = None
    slurm_name: str | None = None
    iteration: int | None = None
    """Where it went on."""
    source: str | None = None
    before: Mapping[str, Any] | None = None
    stages: Sequence[Mapping[str, Any]] = ()
    loaded_at: float | None = None
    first_step_at: float | None = None
    first_step_seconds: float = 0.0
    ended_at: float | None = None
    cause: str | None = None
    notes: list[Mapping[str, Any]] = field(default_factory=list)
    """Ranks that were frozen, stuck or slow: `time`, `what`, `iteration`, `message` each."""

    @property
    def repeats(self) -> int:
        """Steps of earlier launches that this one made again."""
        return int((self.before or {}).get("steps", 0))

    @property
    def repeated_seconds(self) -> float:
        return float((self.before or {}).get("seconds", 0.0))


def read_launches(path: Path) -> tuple[list[Launch], list[str]]:
    """Launches in the order of their begins, and what of the file could not be read."""
    events, problems = read_events(path)
    launches: list[Launch] = []
    by_number: dict[int, Launch] = {}
    for event in events:
        number, at = event["launch"], event["time"]
        if event["event"] == "begin":
            launch = Launch(number, at)
            for key in ("host", "world", "process", "slurm_job", "slurm_name"):
                setattr(launch, key, event.get(key))
            launches.append(launch)
            by_number[number] = launch
            continue
        if number not in by_number:
            problems.append(f"{path.name}: launch {number} has '{event['event']}' and no 'begin'")
            continue
        _add(by_number[number], event["event"], at, event)
    return launches, problems


def _add(launch: Launch, kind: str, at: float, event: Mapping[str, Any]) -> None:
    if kind == "loaded":
        launch.loaded_at, launch.iteration = at, event.get("iteration")
        launch.source, launch.before = event.get("from"), event.get("before")
        launch.stages = event.get("stages") or ()
    elif kind == "step":
        launch.first_step_at, launch.first_step_seconds = at, event.get("seconds", 0.0)
    elif kind == "noted":
        launch.notes.append({k: event.get(k) for k in ("time", "what", "iteration", "message")})
    elif kind == "end":
        launch.ended_at, launch.cause = at, str(event.get("cause"))


def read_events(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Whole lines of the ledger; what else stands there is named in the second list."""
    events, problems = [], []
    for number, row in whole_rows(path):
        if (
            isinstance(row, dict)
            and isinstance(row.get("event"), str)
            and isinstance(row.get("launch"), int)
            and isinstance(row.get("time"), int | float)
        ):
            events.append(row)
        else:
            problems.append(f"{path.name}, line {number}: not a line of a ledger")
    return events, problems


def whole_rows(path: Path) -> Iterable[tuple[int, Any]]:
    """(line number from 1, JSON value) of a file that may grow now; None for a bad line.

    A last line without its end is being written, or was cut by a kill, and is left out.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            yield number, json.loads(line)
        except ValueError:
            yield number, None


def rows_behind(path: Path, iteration: int) -> dict[str, Any] | None:
    """How far metrics.jsonl goes, and what a launch that goes on from `iteration` repeats of it.

    To be asked before the file is cut. None where there is no row.
    """
    last: dict[str, Any] | None = None
    steps, milliseconds = 0, 0.0
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
            reached, took = row["iteration"], row["elapsed_ms"]
        except (ValueError, KeyError, TypeError):
            continue
        last = last or row
        if reached <= iteration:
            break
        steps, milliseconds = steps + 1, milliseconds + took
    if last is None:
        return None
    return {
        "iteration": last["iteration"],
        "time": last.get("time"),
        "steps": steps,
        "seconds": round(milliseconds / 1000, 6),
    }
