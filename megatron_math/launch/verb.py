"""`megatron-math launch`: one road and one verb to SLURM, or files to the linter."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from megatron_math.base.errors import EXIT_DONE, EXIT_FAILED, UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.launch.config import VERBS
from megatron_math.launch.follow import follow
from megatron_math.launch.lint.check import check_file
from megatron_math.launch.run import plan_jobs, submit_jobs


def launch(
    yaml: Path,
    words: Sequence[str],
    *,
    runs: Path,
    nodes: int | None,
    dry_run: bool,
    following: bool,
    as_json: bool,
) -> int:
    """Submit, or show, the jobs of a verb; `words` are the verb (or none) and overrides.

    Returns the exit code: 0, or with `following` that of the job.
    """
    verb, overrides = "train", list(words)
    if overrides and "=" not in overrides[0] and not overrides[0].endswith((".yaml", ".yml")):
        verb = overrides.pop(0)
    if verb not in VERBS:
        raise UserError(f"launch knows no verb '{verb}'; it knows {', '.join(VERBS)}")
    if nodes is not None:
        overrides.append(f"launch.nodes={nodes}")
    plan = plan_jobs(Road.load(yaml, overrides, runs), verb)
    if dry_run:
        if as_json:
            typer.echo(json.dumps({
                "script": str(plan.script), "text": plan.text,
                "jobs": [{"what": j.what, "options": j.options, "arguments": j.arguments,
                          "after": j.after} for j in plan.jobs],
            }, indent=2))  # fmt: skip
        else:
            typer.echo(plan.text, nl=False)
            for job in plan.jobs:
                after = f", {job.after} the one before" if job.after else ""
                log.info("would submit: %s %s%s", job.what, " ".join(job.options), after)
        return EXIT_DONE
    jobs = submit_jobs(plan)
    if as_json:
        typer.echo(json.dumps({"script": str(plan.script), "jobs": [j.job for j in jobs]}))
    if not following:
        log.info("script %s; logs beside it", plan.script)
        return EXIT_DONE
    try:
        return follow(jobs, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        numbers = " ".join(str(job.job) for job in jobs)
        log.info("no longer watching; the jobs go on (scancel %s ends them)", numbers)
        return EXIT_DONE


def lint(files: Sequence[Path], step_seconds: float | None, as_json: bool) -> int:
    """Print what the linter finds; 1 when a mistake is among it."""
    found = [finding for path in files for finding in check_file(path, step_seconds)]
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        for finding in found:
            typer.echo(str(finding))
    return EXIT_FAILED if any(finding.is_mistake for finding in found) else EXIT_DONE
