"""A study on SLURM: jobs for every road, behind those of the roads that it needs.

A road that trains is three jobs: what comes before training, the training on its own nodes with its
requeues, what comes after. Another road is one. Settings are those of `launch` in the road, of
`launch.stages.run` for the jobs around training.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron_math.base.log import log
from megatron_math.launch.run import Plan, plan_jobs, submit_jobs
from megatron_math.study.campaign import Task, is_up_to_date


def submit_tasks(tasks: Sequence[Task]) -> dict[str, list[int]]:
    """Hand what is not done to SLURM; job numbers by key, the last one is what others wait for.

    Tasks stand behind those that they need. UserError for a road that could not run: nothing is
    submitted then, since all scripts are made before the first one is.
    """
    due: list[Task] = []
    waiting: set[str] = set()
    for task in tasks:
        if waiting.isdisjoint(task.needs) and is_up_to_date(task):
            log.info("%s: up to date", task.key)
            continue
        waiting.add(task.key)
        due.append(task)
    planned = [(task, plan_task(task)) for task in due]
    jobs: dict[str, list[int]] = {}
    for task, plans in planned:
        behind = [jobs[key][-1] for key in task.needs if key in jobs]
        jobs[task.key] = []
        for plan, arguments in plans:
            made = submit_jobs(plan, [*behind, *jobs[task.key]], arguments)
            jobs[task.key] += [job.job for job in made]
        log.info("%s: jobs %s", task.key, ", ".join(map(str, jobs[task.key])))
    return jobs


def plan_task(task: Task) -> list[tuple[Plan, list[str]]]:
    """The scripts of a road, in their order, with what each is given behind its name."""
    walk = plan_jobs(task.road, "run", command(task))
    if not task.road.has("train"):
        return [(walk, [])]
    training = plan_jobs(task.road, "train")
    return [(walk, ["--to", "blend"]), (training, []), (walk, ["--from", "export"])]


def command(task: Task) -> list[str]:
    """What a job of the road starts: the same as a process of it here."""
    words = ["python", "-m", "megatron_math.study.one_road", _absolute(task.road.yaml_path)]
    words += ["--runs", _absolute(task.road.runs)]
    if task.budget is not None:
        words += ["--tokens", str(task.budget[0]), "--within", str(task.budget[1])]
    return words


def _absolute(path: Path) -> str:
    return str(path.resolve())
