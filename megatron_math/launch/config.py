"""The `launch:` section. None of it changes a result, so no stage's fingerprint knows it."""

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import Section

Verb = Literal["synthesize", "curate", "index", "blend", "train", "evaluate", "report", "run"]
VERBS: tuple[Verb, ...] = get_args(Verb)
ARRAY_VERBS = ("synthesize", "curate", "index")
MINUTE, HOUR, DAY = 60, 3600, 86400


def slurm_seconds(text: str) -> int | None:
    """Seconds of a SLURM time: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None: not a time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, *rest = match.groups()
    first, second, third = (None if part is None else int(part) for part in rest)
    if days is not None:  # the first number counts hours
        return int(days) * DAY + (first or 0) * HOUR + (second or 0) * MINUTE + (third or 0)
    if third is not None:
        return (first or 0) * HOUR + (second or 0) * MINUTE + third
    return (first or 0) * MINUTE + (second or 0)


class Container(Section):
    """An image that the processes run in, in place of a virtual environment."""

    runtime: Literal["pyxis", "enroot", "apptainer"]
    """pyxis: options of srun; enroot and apptainer: a command in front of ours."""
    image: str = Field(min_length=1)
    """A squashfs or sif file that all nodes see, or what the runtime itself can fetch."""
    mounts: list[str] = []
    """FROM:TO, or one path for both; the working folder and the run folder are always there."""

    @property
    def binds(self) -> list[str]:
        return [mount if ":" in mount else f"{mount}:{mount}" for mount in self.mounts]


class JobConfig(Section):
    """What one verb may want otherwise than another."""

    time: str | None = None
    """Limit of one job as SLURM writes it, in quotation marks: "24:00:00", "2-12"."""
    partition: str | None = None
    """Left out, as the three after it: what the cluster gives you."""
    account: str | None = None
    """Whose hours are spent."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have, as "h100&ib"."""
    gpus_per_node: int | None = Field(None, ge=0)
    """GPUs a node. 0: nodes without GPUs, one process on each. Default: 8 for train, evaluate and
    run, 0 for the other verbs."""
    cpus_per_task: int | None = Field(None, ge=1)
    """Cores of a task, and of a training process where nodes are shared; default 8."""
    sbatch: list[str] = []
    """More options of sbatch, one an item: "--mail-type=END"; they win over all others."""

    @field_validator("time", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError('YAML reads 24:00:00 as a number; write time: "24:00:00"')
        return value

    @field_validator("time")
    @classmethod
    def _a_time(cls, value: str | None) -> str | None:
        if value is not None and not slurm_seconds(value):
            raise ValueError('a SLURM time is "90" (minutes), "24:00:00" or "2-12:00:00"')
        return value

    @field_validator("sbatch")
    @classmethod
    def _options(cls, value: list[str]) -> list[str]:
        for option in value:
            if not re.fullmatch(r"-[^\n]+", option):
                raise ValueError(f"an option begins with a dash; found {option!r}")
        return value


class StageJob(JobConfig):
    """One verb's own."""

    shards: int | None = Field(None, ge=1)
    """synthesize, curate and index: an array of so many tasks, then a job that merges them."""
    at_once: int | None = Field(None, ge=1)
    """Tasks of the array that may run at the same time; left out: all."""


class LaunchConfig(JobConfig):
    """Jobs of this road on SLURM."""

    nodes: int = Field(1, ge=1)
    """Nodes that train; --nodes sets it. The other verbs take one a task."""
    shape: Literal["torchrun", "task"] = "torchrun"
    """SLURM starts one torchrun a node, or one task a GPU; the training is the same."""
    chain: int = Field(1, ge=1)
    """train: jobs one after another in place of one that requeues itself, where a site forbids
    that; one whose run is done ends at once."""
    retries: int = Field(3, ge=0)
    """train: starts after a crash or a lost node without a new checkpoint in between."""
    save_seconds: int = Field(120, ge=30, le=65535)
    """So long before the time ends ranks are told to save and stop; SLURM may be a minute early."""
    exclusive: bool = True
    """train: whole nodes, with all their cores and memory."""
    interface: str | None = None
    """Network device that the ranks meet on, as ib0; left out: the libraries choose."""
    modules: list[str] = []
    """`module load` of these, before anything else."""
    venv: str | None = None
    """Environment that megatron_math is installed in; default: the one of this command."""
    container: Container | None = None
    """Left out: none."""
    environment: dict[str, str] = {}
    """More variables for every process; they win over those of the script. No secrets: the script
    is a file that others may read."""
    stages: dict[Verb, StageJob] = {}
    """What differs for one verb: {index: {partition: cpu, shards: 32}}."""

    @model_validator(mode="after")
    def _has_effect(self) -> "LaunchConfig":
        if self.container is not None and self.venv is not None:
            raise ValueError("venv has no effect in a container; drop one of the two")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"environment: {name!r} is not a variable's name")
        for verb, own in self.stages.items():
            if own.shards is not None and verb not in ARRAY_VERBS:
                raise ValueError(f"stages.{verb}.shards: only {', '.join(ARRAY_VERBS)} are split")
            if verb == "train" and self.exclusive and own.cpus_per_task is not None:
                raise ValueError("stages.train.cpus_per_task has no effect with exclusive: true")
            if own.at_once is not None and own.shards is None:
                raise ValueError(f"stages.{verb}.at_once has no effect without shards")
        return self

    def job(self, verb: Verb) -> StageJob:
        """The settings of one verb: its own over those of the section, then the defaults."""
        own = self.stages.get(verb) or StageJob.model_validate({})
        merged = own.model_dump()
        for name in JobConfig.model_fields:
            if merged[name] in (None, []):
                merged[name] = getattr(self, name)
        if verb not in ("train", "evaluate", "run"):
            merged["gpus_per_node"] = own.gpus_per_node or 0
        defaults = {"gpus_per_node": 8, "cpus_per_task": 8, "time": "24:00:00"}
        filled = {n: defaults.get(n) if v is None else v for n, v in merged.items()}
        return StageJob.model_validate(filled)
