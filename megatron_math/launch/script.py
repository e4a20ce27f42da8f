"""sbatch scripts from templates: what a job needs, as text that a person can read and change."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from megatron_math.launch.config import Container, LaunchConfig, Verb

_COMMENT_COLUMN = 32


@dataclass(frozen=True)
class Script:
    """Everything that the templates ask for. Paths as the nodes see them; "" where unknown."""

    verb: Verb
    launch: LaunchConfig
    job_name: str
    about: Sequence[str]
    """Comment lines at the top."""
    log: str
    """SLURM's file name pattern."""
    venv: str
    arguments: Sequence[str] = ()
    """Of the command; what sbatch is given behind the script's name comes after them."""
    folder: str = ""
    """Where the job runs; "": where sbatch is called."""
    run: str = ""
    """The run folder, which a container must see."""
    latest: str = ""
    """The file that names the newest checkpoint."""
    crashes: str = "train_$SLURM_JOB_ID.crashes"

    def text(self) -> str:
        """The script."""
        job = self.launch.job(self.verb)
        training = self.verb == "train"
        gpus = job.gpus_per_node or 0
        names = ("partition", "account", "qos", "constraint")
        site = [f"--{name}={value}" for name in names if (value := getattr(job, name)) is not None]
        container = self.launch.container
        return _templates().get_template("train.sbatch" if training else "stage.sbatch").render(
            about=self.about,
            job_name=self.job_name,
            nodes=self.launch.nodes,
            shape=self.launch.shape,
            gpus=gpus,
            processes=max(1, gpus),
            exclusive=self.launch.exclusive,
            time=job.time,
            save_seconds=self.launch.save_seconds,
            told="so early, or a minute earlier, it is told to save and stop",
            log=self.log,
            more_options=[*([f"--chdir={self.folder}"] if self.folder else []), *site, *job.sbatch],
            modules=self.launch.modules,
            container=container,
            inside='"${container[@]}" ' if container else "",
            binds=_binds(container, self.run),
            venv=self.venv,
            threads=job.cpus_per_task,
            interface=self.launch.interface,
            environment=self.launch.environment.items(),
            retries=self.launch.retries,
            latest=self.latest,
            crashes=self.crashes,
            chain=self.launch.chain,
            array=job.shards is not None,
            arguments="".join(shlex.quote(argument) + " " for argument in self.arguments),
        )  # fmt: skip


def _binds(container: Container | None, run: str) -> list[str]:
    if container is None:
        return []
    return [*([f"{run}:{run}"] if run else []), *container.binds]


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML; what comes from the road goes through `quoted`
    )
    environment.filters["quoted"] = shlex.quote
    environment.globals["option"] = _option
    return environment


def _option(text: Any, why: str = "") -> str:
    """One #SBATCH line; a value with blanks is put in quotation marks, which SLURM takes away."""
    name, equals, value = str(text).partition("=")
    if any(sign in value for sign in " \t#'\\"):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    line = f"#SBATCH {name}{equals}{value}"
    return f"{line:<{_COMMENT_COLUMN - 1}} # {why}" if why else line
