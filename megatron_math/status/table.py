"""The facts of `status` for a terminal: one run in full, several runs a line each."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from megatron_math.status.facts import duration
from megatron_math.watch.launches import KILLED

COLOURS = {"running": "green", "done": "green", "stopped": "yellow", "died": "red",
           "stalled": "red"}  # fmt: skip
NOTES_SHOWN = 5
SPENT = {
    "steps": "steps that count",
    "repeated": "steps repeated after restarts",
    "starting": "starting, until the first step",
    "down": "between launches",
    "other": "validation, saves and the rest",
}


def render(found: Sequence[dict[str, Any]]) -> RenderableType:
    """One run in full; of several a line each."""
    return _run(found[0]) if len(found) == 1 else _overview(found)


def _overview(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("run", "state", "steps", "tokens", "effective", "restarts", "repeated", "left"):
        table.add_column(head, no_wrap=True)
    for facts in found:
        left = facts["estimate"]
        table.add_row(
            facts["run"],
            _state(facts["state"]),
            f"{_count(facts['iteration'])}/{_count(facts['iterations'])}",
            _large(facts["tokens"]),
            _percent(facts["effective_share"]),
            _count(facts["restarts"]),
            _count(facts["steps_repeated"]),
            _seconds(left and left["seconds"]),
        )
    return table


def _run(facts: dict[str, Any]) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, told in _lines(facts):
        table.add_row(name, told)
    parts: list[RenderableType] = [table]
    if facts["launches"]:
        parts += ["", _launches(facts["launches"])]
        parts += [
            Text(f"launch {one['launch']}: {one['cause']}", style="red")
            for one in facts["launches"]
            if (one["cause"] or "").startswith(("error", f"{KILLED}: "))
        ]
        parts += [
            Text(f"{time.strftime('%m-%d %H:%M:%S', time.localtime(note['time']))} "
                 f"{note['what']}: {note['message']}", style="yellow")
            for note in facts["launches"][-1]["notes"][-NOTES_SHOWN:]
        ]  # fmt: skip
    parts += [Text(f"could not be read: {one}", style="red") for one in facts["problems"][:10]]
    return Group(*parts)


def _lines(facts: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    share = facts["iteration"] and facts["iterations"] and facts["iteration"] / facts["iterations"]
    lines: list[tuple[str, RenderableType]] = [
        (facts["run"], Text.assemble(_state(facts["state"]), f"  {facts['why']}")),
        ("steps", f"{_count(facts['iteration'])} of {_count(facts['iterations'])}"
                  + (f" ({_percent(share)})" if share else "")),
        ("tokens", _count(facts["tokens"])),
    ]  # fmt: skip
    if len(facts["stages"]) > 1:
        lines += [
            (f"  {s['stage']}", f"{_count(s['steps'])} of {_count(s['of'])} steps, "
                                f"{_count(s['tokens'])} tokens")
            for s in facts["stages"]
        ]  # fmt: skip
    if facts["wall_seconds"]:
        told = f"{_percent(facts['effective_share'])} of {_seconds(facts['wall_seconds'])}"
        lines.append(("effective training time", told))
        lines += [
            (f"  {SPENT[name]}", _seconds(seconds))
            for name, seconds in facts["spent_seconds"].items()
        ]
        lines.append(("restarts", f"{facts['restarts']}, {facts['steps_repeated']} steps repeated"))
    speed, left = facts["speed"], facts["estimate"]
    if speed["now"]:
        told = f"{_count(speed['now'])} tokens/s, {_percent(speed['share'])} of the median"
        lines.append(("rate of the last steps", told))
    if left:
        told = f"{_seconds(left['seconds'])} for {_count(left['steps'])} steps"
        if left["seconds_with_losses"]:
            told += f"; with losses as so far {_seconds(left['seconds_with_losses'])}"
        lines.append(("to the end", told))
    return [*lines, *_checkpoints(facts["checkpoints"]), *_queue(facts["queue"])]


def _checkpoints(facts: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    newest = facts["newest_good"]
    if newest is None:
        told = "none"
    else:
        sealed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest["time"]))
        told = f"{newest['name']}, {sealed}"
        if newest.get("steps_behind"):
            told += f", {newest['steps_behind']} steps behind"
        told += f" ({facts['check']})"
    lines: list[tuple[str, RenderableType]] = [("newest good checkpoint", told)]
    return lines + [("  damaged", Text(one, style="red")) for one in facts["damaged"]]


def _queue(facts: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    if not facts["chain"]:
        return []
    told = f"job {facts['chain'][facts['position'] - 1]}, {facts['position']} of a chain of "
    told += str(len(facts["chain"]))
    if facts["missing"]:
        told += f" or more ({facts['missing']})"
    lines: list[tuple[str, RenderableType]] = [("SLURM", told)]
    for job in facts["jobs"]:
        told = f"{job['state']} ({job['reason']}), {job['time_left']} left"
        if job["state"] == "PENDING":
            told = f"{job['state']} ({job['reason']}), to start {job['start']}"
        lines.append((f"  {job['number']} {job['name']}", told))
    return lines


def _launches(launches: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("launch", "begun", "host", "from", "steps", "repeats", "start"):
        table.add_column(head, no_wrap=True)
    table.add_column("ended", overflow="fold")
    for launch in launches:
        host = launch["host"] or "?"
        table.add_row(
            str(launch["launch"]),
            time.strftime("%m-%d %H:%M", time.localtime(launch["begin"])),
            host if launch["slurm_job"] is None else f"{host} (job {launch['slurm_job']})",
            launch["from"] or "?",
            f"{_count(launch['iteration'])} to {_count(launch['reached'])}",
            _count(launch["repeats"]),
            _seconds(launch["first_step_after_seconds"]),
            Text((launch["cause"] or "-").partition(":")[0]),
        )
    return table


def _state(state: str) -> Text:
    return Text(state, style=COLOURS.get(state, ""))


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _large(value: float) -> str:
    """Three digits and a unit."""
    for unit, factor in ((" T", 1e12), (" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    return "?" if value is None else duration(value)
