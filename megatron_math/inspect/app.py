"""`megatron-math inspect WHAT PATH`: parse, look, print; --json prints the same facts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from megatron_math.base.errors import EXIT_FAILED
from megatron_math.base.road import Road

app = typer.Typer(
    name="inspect",
    help="Show what is in an index, a plan, a batch, a checkpoint; compare two orders.",
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="print facts as JSON")]
TokenizerPath = Annotated[
    Path | None, typer.Option("--tokenizer", help="its folder or file, if not beside the index")
]


def show(
    facts: dict[str, Any], render: Callable[[dict[str, Any]], RenderableType], as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(render(facts))


@app.command()
def index(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="path without .bin and .idx")],
    document: Annotated[
        int | None, typer.Option("--document", help="show this document whole (from 0)")
    ] = None,
    tokenizer: TokenizerPath = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare digests too; reads every byte")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Counts, tokenizer, origin and documents of a .bin/.idx index."""
    from megatron_math.inspect.index import inspect_index, render_index

    facts = inspect_index(prefix, document=document, tokenizer=tokenizer, verify=verify)
    show(facts, render_index, as_json)


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a road's 40_blend")],
    as_json: AsJson = False,
) -> None:
    """Stages, sources and order of a blend plan."""
    from megatron_math.inspect.plan import inspect_plan, render_plan

    show(inspect_plan(folder), render_plan, as_json)


@app.command()
def order(
    a: Annotated[Path, typer.Argument(metavar="A", help="a run folder, or its 40_blend")],
    b: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    samples: Annotated[
        int, typer.Option(help="samples of each stage to compare, at most", min=1)
    ] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Do two runs read the same samples in the same order? Exit code 1 when they do not."""
    from megatron_math.inspect.order import inspect_order, render_order

    facts = inspect_order(a, b, num_samples=samples)
    show(facts, render_order, as_json)
    if not facts["equal"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run that trained")],
    as_json: AsJson = False,
) -> None:
    """Did each step take the samples that the plan has for it? Exit code 1 when one did not."""
    from megatron_math.inspect.samples import inspect_samples, render_samples

    facts = inspect_samples(run)
    show(facts, render_samples, as_json)
    if facts["faults"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def checkpoint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="one checkpoint, or a folder of them")
    ],
    iteration: Annotated[int | None, typer.Option(help="which one; default: the newest")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="sizes only, no digests")] = False,
    as_json: AsJson = False,
) -> None:
    """Tensors, iteration, data cursors and health of a checkpoint; exit code 1 when damaged."""
    from megatron_math.inspect.checkpoint import inspect_checkpoint, render_checkpoint

    facts = inspect_checkpoint(folder, iteration=iteration, deep=not quick)
    show(facts, render_checkpoint, as_json)
    if facts["faults"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def batch(
    yaml: Annotated[Path, typer.Argument(metavar="ROAD.yaml", help="the road file")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="change single keys"),
    ] = None,
    iteration: Annotated[int, typer.Option(help="training step, from 1 as in metrics.jsonl")] = 1,
    samples: Annotated[int, typer.Option(help="samples to show, from the step's first", min=1)] = 4,
    tokenizer: TokenizerPath = None,
    runs: Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """Samples of a training step as text: documents, lineage, which tokens carry loss."""
    from megatron_math.inspect.batch import inspect_batch, render_batch

    road = Road.load(yaml, overrides or [], runs)
    facts = inspect_batch(road, iteration=iteration, num_samples=samples, tokenizer=tokenizer)
    show(facts, render_batch, as_json)
