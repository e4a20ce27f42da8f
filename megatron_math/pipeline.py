"""The whole road: which stages there are, in which order, which of them a YAML file asks for.

Rooms are imported when their turn comes, so a road that is up to date never loads torch.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, WouldRun, announcing


@dataclass(frozen=True)
class StageDoor:
    """One stage: its folder, the sections whose presence puts it on a road, the room's function."""

    folder: str
    verb: str
    asked_by: tuple[str, ...]
    module: str
    function: str = "run"

    def run(self, road: Road) -> Stage:
        room: Callable[[Road], Stage] = getattr(importlib.import_module(self.module), self.function)
        return room(road)


STAGES = (
    StageDoor("00_base", "base", ("base",), "megatron_math.convert.run", "run_base"),
    StageDoor("10_synthesize", "synthesize", ("synthesize",), "megatron_math.synthesize.run"),
    StageDoor("20_curate", "curate", ("curate",), "megatron_math.curate.run"),
    StageDoor("30_index", "index", ("index",), "megatron_math.index.run"),
    StageDoor("40_blend", "blend", ("blend",), "megatron_math.blend.run"),
    StageDoor("50_train", "train", ("train",), "megatron_math.train.run"),
    StageDoor("60_export", "export", ("train",), "megatron_math.convert.run", "run_export"),
    StageDoor("70_evaluate", "evaluate", ("evaluate",), "megatron_math.evaluate.run"),
    StageDoor("80_report", "report", ("train", "evaluate", "report"), "megatron_math.report.run"),
)
VERBS = tuple(door.verb for door in STAGES)


def stages_of(road: Road, first: str | None = None, last: str | None = None) -> list[StageDoor]:
    """The stages that the road's sections ask for, from `first` to `last` (verbs)."""
    for verb in (first, last):
        if verb is not None and verb not in VERBS:
            raise UserError(f"there is no stage '{verb}'; stages are {', '.join(VERBS)}")
    start = VERBS.index(first) if first else 0
    end = VERBS.index(last) if last else len(VERBS) - 1
    return [
        door
        for door in STAGES[start : end + 1]
        if any(road.has(section) for section in door.asked_by)
    ]


def run_road(road: Road, first: str | None = None, last: str | None = None) -> None:
    """Run every stage that is not up to date, in order."""
    for door in stages_of(road, first, last):
        run_stage(road, door)


def run_stage(road: Road, door: StageDoor) -> Stage:
    """Run one stage unless it is up to date, and say which it was."""
    started = time.perf_counter()
    stage = door.run(road)
    seconds = time.perf_counter() - started
    state = "up to date" if stage.was_done else f"done in {seconds:.1f} s"
    log.info("%-14s %s  (%s)", door.folder, state, stage.folder)
    return stage


def announce_road(
    road: Road, first: str | None = None, last: str | None = None
) -> list[tuple[str, str]]:
    """(stage folder, what would happen) for --dry-run; nothing is written."""
    rows, waiting = [], False
    for door in stages_of(road, first, last):
        if waiting:
            rows.append((door.folder, "would run (after the stages before it)"))
            continue
        try:
            with announcing():
                door.run(road)
            rows.append((door.folder, "up to date"))
        except WouldRun as answer:
            rows.append((door.folder, f"would run ({answer})"))
            waiting = True
    return rows
