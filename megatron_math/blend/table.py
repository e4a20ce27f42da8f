"""The blend as people read it: one table a stage, and the same facts as JSON."""

from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True)
class BlendTable:
    """`facts` of all stages (docs/formats.md, 40_blend/stats.json), with two ways to show them."""

    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.facts

    def render(self) -> Group:
        """Renderables for a rich console; `repeats` is of the most-repeated document."""
        parts: list[Any] = []
        for stage in self.facts["stages"]:
            parts += [_stage_table(stage), *_notes(stage)]
        return Group(*parts)


def _stage_table(stage: dict[str, Any]) -> Table:
    title = (
        f"{stage['stage']}: {count(stage['tokens'])} tokens in {stage['samples']:,} samples of "
        f"{stage['sequence_length']:,}"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("source", no_wrap=True)
    for name in ("tokens", "used", "asked", "realised", "epochs", "repeats", "padding"):
        table.add_column(name, justify="right")
    for row in stage["sources"]:
        table.add_row(
            "/".join([*row["groups"], row["source"]]),
            count(row["tokens_available"]),
            count(row["tokens_used"]),
            "-" if row["share_asked"] is None else f"{row['share_asked']:.2%}",
            f"{row['share_realised']:.2%}",
            f"{row['epochs']:.2f}",
            f"{row['most_repeated']} x",
            f"{row['padding_share']:.2%}",
        )
    return table


def _notes(stage: dict[str, Any]) -> list[str]:
    notes = [
        f"from token {count(bend['from_token'])} on, {', '.join(bend['ended'])} has ended (its "
        f"max_epochs) and its share goes to its siblings: "
        + ", ".join(f"{name} {share:.2%}" for name, share in bend["shares"].items() if share)
        for bend in stage["redistributed"]
    ]
    for row in stage["sources"]:
        if row["epochs_before"]:
            notes.append(f"{row['source']} goes on after {row['epochs_before']:.2f} epochs")
        if row["empty_documents"]:
            notes.append(f"{row['source']}: {row['empty_documents']:,} empty documents left out")
    held_out = ", ".join(
        f"{row['source']} {row['validation_documents']:,}" for row in stage["sources"]
    )
    return [*notes, f"documents held out for validation: {held_out}"]


def count(value: int) -> str:
    """Three to four digits and a unit: 1234567 -> '1.235M'; below 10,000 the number itself."""
    if value < 10_000:
        return f"{value:,}"
    size, unit = next(item for item in UNITS if value >= item[0])
    return f"{value / size:.4g}{unit}"
