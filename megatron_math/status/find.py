"""Which runs a person means: a run folder, a road file, or a folder with several runs in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.watch.config import WatchConfig

TRAINING = "50_train"
DEEPEST = 4
"""Folders between the one that was given and a run's."""


@dataclass(frozen=True)
class Target:
    """A run: its name for people, its folder, and its section `watch` where a road was given."""

    name: str
    root: Path
    watch: WatchConfig


def find_runs(given: Sequence[Path], runs: Path) -> list[Target]:
    """One target for every run, each once. Raises UserError where there is none."""
    found: dict[Path, Target] = {}
    for path in given:
        for target in _at(path, runs):
            found.setdefault(target.root.resolve(), target)
    return list(found.values())


def _at(path: Path, runs: Path) -> list[Target]:
    if path.is_file():
        road = Road.load(path, [], runs)
        return [Target(road.name, road.root, road.section("watch", WatchConfig))]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; give a run folder, a road file or a folder of runs"
        )
    defaults = WatchConfig.model_validate({})
    if path.name == TRAINING:
        return [Target(path.resolve().parent.name, path.parent, defaults)]
    roots = sorted(_runs_below(path, DEEPEST))
    if not roots:
        raise UserError(f"{path} holds no run: there is no {TRAINING} in it or below")
    return [
        Target(str(root.relative_to(path)) if root != path else path.resolve().name, root, defaults)
        for root in roots
    ]


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / TRAINING).is_dir():
        yield folder
    elif depth:
        try:
            below = [item for item in folder.iterdir() if item.is_dir() and item.name[0] != "."]
        except OSError:
            return
        for item in below:
            yield from _runs_below(item, depth - 1)
