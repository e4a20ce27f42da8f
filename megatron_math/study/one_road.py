"""One road of a study, in a process of its own: `python -m megatron_math.study.one_road ROAD`.

Stages before training that an equal road of the study has made already are linked, not made again.
Exit codes as everywhere: 0, 1, 2, 75.
"""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_STOPPED, StoppedOnRequest, UserError
from megatron_math.base.files import read_json
from megatron_math.base.log import log, set_up_logging
from megatron_math.base.road import Road
from megatron_math.base.stage import WouldRun, announcing
from megatron_math.pipeline import StageDoor, run_stage, stages_of

LOCKS = ".making"
FIRST_OF_ITS_OWN = "50_train"


def walk(
    road: Road,
    budget: tuple[int, int] | None,
    first: str | None = None,
    last: str | None = None,
) -> None:
    """Run what is missing of a road, from a stage to another where they are given.

    budget: tokens that its blend must come to, and within what. Raises UserError when it comes to
    others: training is not begun then.
    """
    for door in stages_of(road, first, last):
        if door.folder < FIRST_OF_ITS_OWN:
            run_or_link(road, door)
        else:
            run_stage(road, door)
        if door.verb == "blend" and budget is not None:
            check_plan(road, *budget)


def check_plan(road: Road, tokens: int, within: int) -> None:
    """Compare the plan with the budget, to the token. UserError where it is another."""
    found = read_json(road.folder("40_blend") / "stats.json")["tokens"]
    if abs(found - tokens) > within:
        raise UserError(
            f"{road.name} is planned with {found:,} tokens and its budget is {tokens:,} (within "
            f"{within:,}); give its blend as many tokens as the other arms have"
        )


def run_or_link(road: Road, door: StageDoor) -> None:
    """Run a stage, or link the folder in which an equal road beside this one has made it."""
    try:
        with announcing():
            door.run(road)
        return
    except WouldRun as answer:
        fingerprint = answer.fingerprint
    with _locked(road.root.parent / LOCKS / fingerprint[:16]):
        own = road.folder(door.folder)
        twin = _twin(own, fingerprint)
        if twin is not None and (own.is_symlink() or not own.exists()):
            own.unlink(missing_ok=True)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(os.path.relpath(twin, own.parent))
            log.info("%-14s the one of %s", door.folder, twin.parent.name)
        run_stage(road, door)


def _twin(own: Path, fingerprint: str) -> Path | None:
    """The same stage of another road of this study, finished with this fingerprint."""
    for done in sorted(own.parent.parent.glob(f"*/{own.name}/DONE")):
        folder = done.parent
        if folder.is_symlink() or folder == own:
            continue
        if done.read_text(encoding="utf-8").strip() == fingerprint:
            return folder
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes a stage; the lock goes with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of one road."""
    parser = argparse.ArgumentParser(prog="python -m megatron_math.study.one_road")
    parser.add_argument("yaml")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--within", type=int)
    parser.add_argument("--from", dest="first")
    parser.add_argument("--to", dest="last")
    given = parser.parse_args(arguments)
    set_up_logging()
    budget = None if given.tokens is None else (given.tokens, given.within)
    try:
        walk(Road.load(given.yaml, (), given.runs), budget, given.first, given.last)
    except UserError as error:
        sys.stderr.write(f"megatron-math: {error}\n")
        return EXIT_BAD_INPUT
    except StoppedOnRequest as stopped:
        log.info("%s", stopped)
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
