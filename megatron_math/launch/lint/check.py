"""All rules over one file, and the one that needs to know how long an iteration takes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from megatron_math.base.config import load_yaml
from megatron_math.base.errors import UserError
from megatron_math.launch.config import slurm_seconds
from megatron_math.launch.lint import asked, done
from megatron_math.launch.lint.finding import Finding
from megatron_math.launch.lint.sbatch_file import SbatchFile

_DEFAULT_INTERVAL = 500  # of checkpoint.interval


def check_file(path: Path, step_seconds: float | None = None) -> list[Finding]:
    """Mistakes and hints of an sbatch file, by line. UserError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be checked: {error}") from None
    return check_text(text, path, step_seconds)


def check_text(text: str, path: Path, step_seconds: float | None = None) -> list[Finding]:
    """The same of a text; `path` is what its findings name."""
    file = SbatchFile(text, path)
    found: list[Finding] = []
    for rule in (*asked.RULES, *done.RULES):
        name = rule.__name__.replace("_", "-")
        found += [replace(f, rule=name, path=str(path)) for f in rule(file)]
    if step_seconds is not None:
        found += [
            replace(f, rule="time-short", path=str(path)) for f in _time_short(file, step_seconds)
        ]
    return sorted(found, key=lambda finding: (finding.line, finding.rule))


def _time_short(file: SbatchFile, step_seconds: float) -> Iterator[Finding]:
    time, interval = file.option("time"), _interval(file)
    limit = slurm_seconds(time.value) if time else None
    if time and limit and interval and interval * step_seconds > limit:
        yield Finding(
            time.line, f"{limit} s of time, and a checkpoint every {interval * step_seconds:.0f} s",
            "what goes wrong in one job takes all of its work",
            "a longer --time, or a checkpoint more often",
        )  # fmt: skip


def _interval(file: SbatchFile) -> int | None:
    """Iterations between checkpoints, by Megatron-LM's flag, our override, or the road's file."""
    flag = r"(?:--save-interval[= ]+|\bcheckpoint\.interval=)(\d+)"
    command = file.mentions(flag)
    if command is not None:
        return int(re.search(flag, command.text)[1])  # type: ignore[index]
    for command in file.commands:
        for name in re.findall(r"[^\s'\"=]+\.ya?ml\b", command.text):
            if "megatron" in command.text and Path(name).is_file():
                road = load_yaml(Path(name).read_text(encoding="utf-8"), name)
                section = road.get("checkpoint") if isinstance(road, dict) else None
                return int((section or {}).get("interval", _DEFAULT_INTERVAL))
    return None
