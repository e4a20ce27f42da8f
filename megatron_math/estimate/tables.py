"""Estimates as tables for a terminal."""

from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from megatron_math.estimate.run import Estimate
from megatron_math.estimate.search import Choice

_GIB, _MIB = 1024**3, 1024**2


def render_memory(answer: Estimate) -> Group:
    """Memory of the fullest rank by kind."""
    memory, gpu = answer.memory, answer.gpu
    table = _table("memory of the fullest rank", "GiB", "share")
    for kind, count in asdict(memory).items():
        table.add_row(kind, f"{count / _GIB:,.2f}", f"{count / memory.total:.0%}")
    table.add_section()
    share = memory.total / gpu.memory_bytes
    table.add_row("total", f"{memory.total / _GIB:,.2f}", f"{share:.0%} of {gpu.name}")
    layers = ", ".join(
        f"{mode} {count / _MIB:,.1f}" for mode, count in answer.layer_bytes().items()
    )
    assumed = "".join(f" assumed: {text}\n" for text in answer.assumptions())
    notes = (
        f" pipeline stage {answer.stage + 1} of {answer.run.layout.pipeline}; {describe(answer)}\n"
        f" MiB that one layer keeps of one micro-batch, by recompute: {layers}\n{assumed}"
    )
    return Group(table, Text(notes))


def render_rest(answer: Estimate) -> Group:
    """Time terms, rates, and what the whole run takes."""
    speed, run = answer.speed, answer.run
    times = _table("one step", "ms", "share")
    for term, seconds in asdict(speed.step).items():
        if seconds:
            share = f"{seconds / speed.step.total:.0%}"
            times.add_row(term.replace("_", " "), f"{seconds * 1e3:,.1f}", share)
    times.add_section()
    times.add_row("total", f"{speed.step.total * 1e3:,.1f}", "")
    rate, gpus = speed.tokens_per_second_per_gpu, run.layout.gpus
    rows = [
        ("tokens/s/GPU", f"{rate:,.0f}", f"{rate * gpus:,.0f} on all {gpus}"),
        ("TFLOP/s/GPU", f"{speed.tflops_causal:,.0f}",
         f"attention counted half; {speed.tflops_full:,.0f} counted full"),
        ("MFU", f"{speed.mfu:.1%}", f"of the dense {run.layout.precision} peak, half"),
        ("pipeline bubble", f"{speed.bubble_share:.1%}", "of the busy time"),
    ]  # fmt: skip
    if answer.days is not None:
        rows += [
            ("days", f"{answer.days:,.2f}", f"{run.tokens:,} tokens"),
            ("GPU-hours", f"{answer.gpu_hours:,.1f}", ""),
            ("energy, kWh", f"{answer.energy_kwh:,.1f}", "GPU boards at their limit"),
        ]
    if answer.cost is not None:
        rows.append(("cost", f"{answer.cost:,.0f}", "at the price given"))
    size, seconds = answer.checkpoint_bytes / 1e9, answer.checkpoint_seconds
    rows.append(("checkpoint, GB", f"{size:,.1f}", f"{seconds:,.1f} s to write"))
    facts = _table("the run", "", "")
    for row in rows:
        facts.add_row(*row)
    return Group(times, facts)


def render_choices(choices: list[Choice], shown: int = 10) -> Table:
    """The fastest layouts of a search."""
    table = Table(title=f"{len(choices)} layouts fit; the fastest", box=SIMPLE_HEAD, padding=0)
    names = ("tensor", "pipeline", "virtual", "context", "expert", "data", "micro", "recompute",
             "tok/s/GPU", "bubble", "GiB")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for choice in choices[:shown]:
        layout = choice.layout
        table.add_row(
            *map(str, (layout.tensor, layout.pipeline, layout.virtual, layout.context)),
            str(layout.expert),
            str(layout.data),
            str(layout.micro_batch),
            layout.recompute,
            f"{choice.speed.tokens_per_second_per_gpu:,.0f}",
            f"{choice.speed.bubble_share:.1%}",
            f"{choice.memory.total / _GIB:.1f}",
        )
    return table


def describe(answer: Estimate) -> str:
    """The layout in one line."""
    layout = answer.run.layout
    axes = f"tensor {layout.tensor}, pipeline {layout.pipeline}, context {layout.context}"
    if answer.run.model.num_experts is not None:
        axes += f", expert {layout.expert}"
    return (
        f"{axes}, data {layout.data}; {layout.micro_batches} micro-batches of "
        f"{layout.micro_batch} x {layout.sequence_length:,}; recompute {layout.recompute}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column(columns[0], justify="right")
    for column in columns[1:]:
        table.add_column(column)
    return table
