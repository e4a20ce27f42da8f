"""`megatron-math launch`: check what a job would refuse, write its script, submit it.

Reads the road, the metrics of an earlier run (how long an iteration takes) and what SLURM says of
jobs submitted before. Writes `<run>/launch/VERB.sbatch` and `jobs.jsonl`.
"""

import importlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_text
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.launch import slurm
from megatron_math.launch.config import HOUR, LaunchConfig, Verb, slurm_seconds
from megatron_math.launch.follow import Submitted
from megatron_math.launch.lint.check import check_text
from megatron_math.launch.script import Script
from megatron_math.pipeline import STAGES
from megatron_math.train.config import CheckpointConfig, ParallelConfig, TrainConfig
from megatron_math.train.run import check_batch, check_stages, check_world, read_order

_STEPS_LOOKED_AT = 100


@dataclass(frozen=True)
class Job:
    """One hand-over to sbatch."""

    what: str
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    after: str | None = None
    """How it waits for the job before it: afterany, afterok."""
    log: str = ""
    """SLURM's pattern; %j stands for the job's number."""


@dataclass(frozen=True)
class Plan:
    """A script and the jobs that run it."""

    road: Road
    verb: Verb
    text: str
    jobs: list[Job]

    @property
    def folder(self) -> Path:
        return self.road.root.resolve() / "launch"

    @property
    def script(self) -> Path:
        return self.folder / f"{self.verb}.sbatch"


def plan_jobs(road: Road, verb: Verb, command: Sequence[str] | None = None) -> Plan:
    """The script and the jobs of one verb. UserError for what could not run.

    command: what a process is started with, in the place of the verb.
    """
    launch = road.section("launch", LaunchConfig)
    job = launch.job(verb)
    if verb != "run" and not _has_work(road, verb):
        raise UserError(f"{road.yaml_path} has no section '{verb}', so there is nothing to launch")
    if job.shards is not None and not _has_parts(road, verb):
        raise UserError(
            f"launch.stages.{verb}.shards {job.shards}: {verb} cannot be split here, this road "
            "gives its --shard nothing to do; leave shards out"
        )
    limit = slurm_seconds(job.time or "") or 0
    if limit <= launch.save_seconds + 60:
        raise UserError(
            f"launch.time {job.time} is {limit} s, and its last {launch.save_seconds} s, or a "
            "minute more, are for stopping (launch.save_seconds): give it more time"
        )
    if verb == "train":
        _check_training(road, launch, limit)
    run, name = road.root.resolve(), f"{road.name.replace('/', '-')}-{verb}"
    folder = run / "launch"
    pattern = str(folder).replace("%", "%%") + f"/{verb}_" + ("%A_%a" if job.shards else "%j")
    script = Script(
        verb=verb,
        launch=launch,
        job_name=name,
        about=_about(road, verb, folder),
        log=f"{pattern}.log",
        venv=launch.venv or sys.prefix,
        arguments=_command(road, verb) if command is None else list(command),
        folder=os.getcwd(),
        run=str(run),
        latest=str(run / "50_train/checkpoints/latest_checkpointed_iteration.txt"),
        crashes=f"{folder}/crashes_$SLURM_JOB_ID",
    )
    plan = Plan(road, verb, script.text(), list(_jobs(launch, verb, folder)))
    mistakes = [
        found
        for found in check_text(plan.text, plan.script)
        if found.is_mistake and (found.rule != "not-exclusive" or launch.exclusive)
    ]
    if mistakes:  # an option of the site or of the user that does not go with the rest
        raise UserError("\n".join(map(str, mistakes)))
    return plan


def _has_work(road: Road, verb: Verb) -> bool:
    door = next(door for door in STAGES if door.verb == verb)
    return any(road.has(section) for section in door.asked_by)


def _has_parts(road: Road, verb: Verb) -> bool:
    room = importlib.import_module(next(door.module for door in STAGES if door.verb == verb))
    told: Callable[[Road], bool] | None = getattr(room, "has_parts", None)
    return hasattr(room, "run_shard") if told is None else told(road)


def _jobs(launch: LaunchConfig, verb: Verb, folder: Path) -> list[Job]:
    job, log_name = launch.job(verb), f"{folder}/{verb}_%j.log"
    if job.shards is not None:
        some = f"%{job.at_once}" if job.at_once else ""
        array = Job(f"shards 0-{job.shards - 1}", (f"--array=0-{job.shards - 1}{some}",))
        # A merge whose shards failed would wait for ever.
        options = ("--kill-on-invalid-dep=yes", f"--output={log_name}")
        return [array, Job("merge", options, ("--merge",), "afterok", log_name)]
    links = launch.chain if verb == "train" else 1
    if links == 1:
        return [Job(verb, log=log_name)]
    return [
        Job(f"chain {i} of {links}", after="afterany" if i > 1 else None, log=log_name)
        for i in range(1, links + 1)
    ]


def _about(road: Road, verb: Verb, folder: Path) -> list[str]:
    return [
        f"{road.name}: {verb}. Written by `megatron-math launch`, which writes it anew each time;",
        "a copy is yours to change. Options given to sbatch win over the #SBATCH lines.",
        f"Logs: {folder}",
    ]


def _command(road: Road, verb: Verb) -> list[str]:
    """What a process is started with, behind `python -m megatron_math.train` for training."""
    files = (".yaml", ".yml")
    overrides = [
        str(Path(text).resolve()) if "=" not in text and text.endswith(files) else text
        for text in road.overrides
    ]
    verb_itself = [] if verb == "train" else ["megatron-math", verb]
    road_file, runs = str(road.yaml_path.resolve()), str(road.runs.resolve())
    return [*verb_itself, road_file, *overrides, "--runs", runs]


def _check_training(road: Road, launch: LaunchConfig, limit: int) -> None:
    """What ranks would refuse after days in the queue, as far as it is known now."""
    train, parallel = (
        road.section("train", TrainConfig),
        road.section("parallel", ParallelConfig),
    )
    world = launch.nodes * max(1, launch.job("train").gpus_per_node or 0)
    check_world(parallel, world)
    if (road.folder("40_blend") / "DONE").is_file() and (road.folder("00_base") / "DONE").is_file():
        check_stages(train, read_order(road).plan, parallel.grid, world)
    else:
        check_batch(train, parallel.grid, world)
    interval = road.section("checkpoint", CheckpointConfig).interval
    seconds = _iteration_seconds(road.folder("50_train") / "metrics.jsonl")
    if seconds is not None and interval * seconds > limit - launch.save_seconds:
        raise UserError(
            f"checkpoint.interval {interval} at {seconds:.3g} s an iteration (this run so far) is "
            f"{interval * seconds / HOUR:.3g} hours, and a job ends after {limit / HOUR:.3g} "
            f"(launch.time): nothing would be saved before its last minutes; lower "
            f"checkpoint.interval below {int((limit - launch.save_seconds) / seconds)}"
        )


def _iteration_seconds(metrics: Path) -> float | None:
    """The median of the newest iterations; None where none was measured."""
    if not metrics.is_file():
        return None
    with metrics.open() as file:
        rows = [json.loads(line) for line in deque(file, _STEPS_LOOKED_AT) if line.endswith("\n")]
    times = [row["elapsed_ms"] / 1000 for row in rows if "elapsed_ms" in row]
    return median(times) if times else None


def submit_jobs(
    plan: Plan, behind: Sequence[int] = (), arguments: Sequence[str] = ()
) -> list[Submitted]:
    """Write the script and hand its jobs to SLURM, each behind the one before it.

    behind: jobs that must have ended well before the first begins, and that make what it needs.
    arguments: of the script.
    """
    if plan.verb == "train" and not behind:
        for stage in ("00_base", "40_blend"):
            plan.road.done(stage)
    refuse_second(plan, behind)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_text(plan.script, plan.text)
    submitted: list[Submitted] = []
    for job in plan.jobs:
        options = list(job.options)
        if job.after is not None:
            options.append(f"--dependency={job.after}:{submitted[-1].job}")
        elif behind and not submitted:
            numbers = ":".join(map(str, behind))
            options += ["--kill-on-invalid-dep=yes", f"--dependency=afterok:{numbers}"]
        number = slurm.submit(plan.script, options, [*job.arguments, *arguments])
        log_path = Path(job.log.replace("%j", str(number))) if job.log else None
        submitted.append(Submitted(number, job.what, log_path))
        _note(plan, submitted[-1], options)
        log.info("job %d: %s", number, job.what)
    return submitted


def _note(plan: Plan, job: Submitted, options: list[str]) -> None:
    row = {
        "job": job.job,
        "verb": plan.verb,
        "what": job.what,
        "options": options,
        "log": None if job.log is None else str(job.log),
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with (plan.folder / "jobs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def refuse_second(plan: Plan, behind: Sequence[int] = ()) -> None:
    """Two jobs of one run would write over each other, but for those that it waits for."""
    path = plan.folder / "jobs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for row in rows[-100:]:
        if row["verb"] != plan.verb or row["job"] in behind:
            continue
        going = [state for state in slurm.states(row["job"]) if not state.has_ended]
        if going:
            raise UserError(
                f"job {row['job']} ({row['what']}) of {plan.road.name} is {going[0]}; wait for its "
                f"end, or scancel {row['job']}"
            )
