r"""Doors to and from lm-evaluation-harness; only `command --run` needs it installed.

python tools/lm_harness.py command runs/quickstart/cpt --tasks gsm8k,mmlu --out scores
python tools/lm_harness.py task gsm8k tasks --data DATA       # our prompts as a task of theirs
python tools/lm_harness.py samples predictions.jsonl out     # our answers as samples of theirs
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from megatron_math.base.errors import EXIT_BAD_INPUT, UserError
from megatron_math.evaluate.harness import as_line, command, write_samples, write_task

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("command")
def score(
    model: Annotated[Path, typer.Argument(help="a run with an export, or a Hugging Face folder")],
    tasks: Annotated[str, typer.Option(help="names of tasks, with commas between")],
    out: Annotated[Path, typer.Option(help="folder for its results and samples")],
    include: Annotated[Path | None, typer.Option(help="folder of more tasks")] = None,
    dtype: str = "float32",
    batch_size: int = 16,
    run: Annotated[bool, typer.Option("--run", help="do it, and not only say it")] = False,
) -> None:
    """Print (or run) the lm_eval command that scores a model of ours."""
    words = command(
        model, tasks.split(","), out, include=include, dtype=dtype, batch_size=batch_size
    )
    print(as_line(words), flush=True)
    if run:
        raise typer.Exit(subprocess.run(words, check=False).returncode)


@app.command()
def task(
    benchmark: Annotated[str, typer.Argument(help="a benchmark's name, or its YAML's path")],
    folder: Annotated[Path, typer.Argument(help="folder for the task, for lm_eval --include_path")],
    rows: Path | None = None,
    data: Path | None = None,
    shots: int = 0,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> None:
    """Write a benchmark of ours as a task of lm_eval, with our prompts."""
    print(
        write_task(
            benchmark, folder, rows=rows, data=data, shots=shots, limit=limit,
            max_new_tokens=max_new_tokens,
        )
    )  # fmt: skip


@app.command()
def samples(
    predictions: Annotated[Path, typer.Argument(help="a predictions.jsonl")],
    folder: Annotated[Path, typer.Argument(help="folder for the two files")],
) -> None:
    """Write predictions in the format of lm_eval's logged samples, and their results."""
    for path in write_samples(predictions, folder):
        print(path)


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"lm_harness.py: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
