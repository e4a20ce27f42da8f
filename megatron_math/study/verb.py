"""`megatron-math study`: count, refuse or run, and say what was found."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from megatron_math.base.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.pipeline import announce_road
from megatron_math.report.study import write_study_page
from megatron_math.study.budget import ArmTokens, arm_tokens, find_faults, render
from megatron_math.study.campaign import GOOD, Outcome, Task, run_tasks
from megatron_math.study.config import DEFAULT_BUDGET
from megatron_math.study.plan import ArmRoad, StudyPlan, plan_study, read_study
from megatron_math.study.results import make_results
from megatron_math.study.show import render as render_results

WIDE = 180
"""Characters of a table's line where no terminal says how many it has."""


def study(
    yaml: Path,
    overrides: Sequence[str],
    *,
    runs: Path,
    only: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    launching: bool,
    dry_run: bool,
    as_json: bool,
    console: Console,
) -> int:
    """Make a study, or say what it would be; returns the exit code."""
    console = console if console.is_terminal else Console(width=WIDE)
    config = read_study(yaml, overrides)
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            plan = plan_study(config, runs, Path(folder))
            counted = count_arms(plan, only, seeds)
            _show_plan(plan, counted, only, seeds, as_json, console)
            refuse(counted, plan, console=None)
        return EXIT_DONE
    plan = plan_study(config, runs)
    refuse(count_arms(plan, only, seeds), plan, console=None if as_json else console)
    if launching:
        from megatron_math.study.jobs import submit_tasks

        shared = shared_tasks(plan)
        submit_tasks([*shared, *arm_tasks(plan, plan.chosen(only, seeds), shared[-1:])])
        return EXIT_DONE
    outcomes = make(plan, only, seeds, jobs, console=None if as_json else console)
    facts = make_results(config, plan.arms, plan.folder)
    page = write_page(plan)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print(render_results(facts))
        console.print(f"{plan.folder}/results.json, results.csv; {page}", highlight=False)
    return ended(outcomes)


def report_study(yaml: Path, overrides: Sequence[str], runs: Path) -> Path:
    """Results and page of what a study has by now; nothing is run. Returns the page's path."""
    config = read_study(yaml, overrides)
    plan = plan_study(config, runs)
    make_results(config, plan.arms, plan.folder)
    return write_page(plan)


def write_page(plan: StudyPlan) -> Path:
    """The page beside the study's results."""
    arms = {(arm.arm, arm.seed): arm.road.root for arm in plan.arms}
    return write_study_page(plan.folder, arms, [road.root for road in plan.shared])


def make(
    plan: StudyPlan,
    only: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    console: Console | None,
) -> dict[str, Outcome]:
    """The shared roads, the budgets again now that there are indexes, then the arms."""
    chosen = plan.chosen(only, seeds)
    outcomes = run_tasks(shared_tasks(plan))
    if any(outcome.ending not in GOOD for outcome in outcomes.values()):
        return outcomes
    refuse(count_arms(plan, only, seeds), plan, console)
    return outcomes | run_tasks(arm_tasks(plan, chosen), jobs=jobs)


def shared_tasks(plan: StudyPlan) -> list[Task]:
    """The shared roads, each behind the one before it."""
    tasks: list[Task] = []
    for road in plan.shared:
        needs = tuple(task.key for task in tasks[-1:])
        tasks.append(Task(road.name.rpartition("/")[2], road, needs))
    return tasks


def arm_tasks(plan: StudyPlan, arms: Sequence[ArmRoad], behind: Sequence[Task] = ()) -> list[Task]:
    """What is to be made of the arms, each behind `behind`.

    Raises UserError for an arm of another study that is not there.
    """
    tasks = []
    for arm in arms:
        if arm.is_made_elsewhere:
            if not (arm.road.folder("60_export") / "DONE").is_file():
                raise UserError(
                    f"arm '{arm.arm}' is {arm.road.root}, which is not finished; run that first"
                )
            continue
        _, budget = plan.config.budget_of(arm.arm)
        counted = arm_tokens(arm.arm, arm.road, "")
        needs = [task.key for task in behind] + ([arm.after] if arm.after is not None else [])
        limits = budget.tokens, counted.sequence_length
        tasks.append(Task(arm.key, arm.road, tuple(needs), limits))
    return tasks


def count_arms(plan: StudyPlan, only: Sequence[str], seeds: Sequence[int]) -> list[ArmTokens]:
    """Each arm once, with its first seed."""
    first: dict[str, ArmTokens] = {}
    for arm in plan.chosen(only, seeds):
        if arm.arm not in first and not arm.is_made_elsewhere:
            name, _ = plan.config.budget_of(arm.arm)
            first[arm.arm] = arm_tokens(arm.arm, arm.road, name)
    return list(first.values())


def refuse(counted: list[ArmTokens], plan: StudyPlan, console: Console | None) -> None:
    """UserError, behind the table, when the arms cannot be compared."""
    faults = find_faults(counted, plan.config)
    if faults:
        if console is not None:
            console.print(render(counted))
        raise UserError(
            "the arms are not comparable, so nothing is run: "
            + "; ".join(faults)
            + "; change their blends, or the budget"
        )


def _show_plan(
    plan: StudyPlan,
    counted: list[ArmTokens],
    only: Sequence[str],
    seeds: Sequence[int],
    as_json: bool,
    console: Console,
) -> None:
    chosen = plan.chosen(only, seeds)
    if as_json:
        config = plan.config
        budgets = dict(config.budgets)
        if config.budget is not None:
            budgets[DEFAULT_BUDGET] = config.budget
        facts = {
            "name": config.name,
            "budgets": {n: b.model_dump(exclude_none=True) for n, b in budgets.items()},
            "arms": [arm.to_json() for arm in counted],
            "roads": [road.name for road in (*plan.shared, *(arm.road for arm in chosen))],
            "faults": find_faults(counted, config),
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    console.print(render(counted))
    waits_for = ""  # the shared road that comes first
    for road in plan.shared:
        if _say(road, waits_for, console):
            waits_for = waits_for or road.name
    due: dict[str, str] = {}
    for arm in chosen:
        behind = waits_for or due.get(arm.after or "", "")
        if _say(arm.road, behind, console):
            due[arm.key] = arm.road.name


def _say(road: Road, behind: str, console: Console) -> bool:
    """One line about a road; whether there is work to do."""
    if behind:
        text = f"would run (after {behind})"
    else:
        try:
            left = [f"{s} {told}" for s, told in announce_road(road) if told != "up to date"]
            text = left[0] if left else "up to date"
        except UserError as error:
            text = f"cannot run yet: {error}"
    console.print(f"{road.name:<28} {text}", highlight=False, markup=False, soft_wrap=True)
    return text != "up to date"


def ended(outcomes: dict[str, Outcome]) -> int:
    """Name what did not end well; the exit code."""
    bad = {key: o for key, o in outcomes.items() if o.ending not in GOOD}
    for key, outcome in bad.items():
        log.error("%s: %s (%s)", key, outcome.ending, outcome.why)
    if not bad:
        return EXIT_DONE
    if all(outcome.ending in ("stopped", "left out") for outcome in bad.values()):
        return EXIT_STOPPED
    return EXIT_FAILED
