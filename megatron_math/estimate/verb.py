"""`megatron-math estimate`: one road, one answer on the terminal or as JSON."""

import json
from dataclasses import replace
from typing import get_args

import typer
from rich.console import Console

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.estimate.hardware import Precision, load_gpu
from megatron_math.estimate.memory import check_fit
from megatron_math.estimate.run import estimate, read_road
from megatron_math.estimate.search import search
from megatron_math.estimate.tables import render_choices, render_memory, render_rest


def answer(
    road: Road,
    *,
    gpu_name: str,
    gpus: int | None,
    precision: str | None,
    tokens: str,
    price: float | None,
    storage: float | None,
    searching: bool,
    as_json: bool,
    console: Console,
) -> None:
    """Print the estimate. UserError (exit code 2) where it does not fit or cannot be run."""
    gpu = load_gpu(gpu_name)
    if precision is not None and precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise UserError(f"--precision {precision} is not known; give one of {known}")
    run = read_road(road, gpus, precision, tokens)  # type: ignore[arg-type]
    choices = []
    if searching:
        choices = search(run.model, run.layout, gpu)
        run = replace(run, layout=choices[0].layout)
    found = estimate(run, gpu, price, storage)
    if as_json:
        check_fit(found.memory, found.stage, gpu)
        facts = found.to_json()
        if searching:
            facts["layouts"] = [
                {
                    "layout": choice.layout.to_json(),
                    "tokens_per_second_per_gpu": choice.speed.tokens_per_second_per_gpu,
                    "memory_bytes": choice.memory.total,
                }
                for choice in choices
            ]
        typer.echo(json.dumps(facts, indent=2))
        return
    if searching:
        console.print(render_choices(choices))
    console.print(render_memory(found))
    check_fit(found.memory, found.stage, gpu)
    console.print(render_rest(found))
