"""Do two runs read the same samples in the same order? Hashes of sample ids, the first difference.

A sample's id is its source and, piece by piece, document, first token and number of tokens.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_math.base.errors import UserError
from megatron_math.dataset.plan import Plan, load_plan
from megatron_math.dataset.reader import PlanReader

NUM_SAMPLES = 100_000
FIRST_HASH = 1_000
SHOWN_PIECES = 6

SampleId = tuple[str, bytes]  # source; (document, start, tokens) of its pieces as int64


def inspect_order(a: Path, b: Path, *, num_samples: int = NUM_SAMPLES) -> dict[str, Any]:
    """Compare the orders of two plans, stage by stage, as far as both have samples. JSON types.

    a, b: run folders or 40_blend folders. num_samples: of each stage at most. Raises UserError
    where there is no plan or an index has changed.
    """
    plans = [load_plan(plan_folder(folder)) for folder in (a, b)]
    common = min(len(plan.stages) for plan in plans)
    stages = [_stage(plans, number, num_samples) for number in range(common)]
    return {
        "a": str(a),
        "b": str(b),
        "equal": all(stage["first_difference"] is None for stage in stages),
        "continues": [plan.history and plan.history.checkpoint for plan in plans],
        "stages": stages,
        "not_compared": [[stage.name for stage in plan.stages[common:]] for plan in plans],
    }


def plan_folder(folder: Path) -> Path:
    """The folder of the plan in a run folder, or that folder itself."""
    for candidate in (folder, folder / "40_blend"):
        if (candidate / "plan.json").is_file():
            return candidate
    raise UserError(
        f"{folder} is neither a run folder with a 40_blend nor such a folder; run blend first"
    )


def sample_ids(reader: PlanReader, samples: range) -> Iterator[SampleId]:
    for sample in samples:
        source, number = reader.locate(sample)
        pieces_P5 = reader.stream(source).pieces(number)
        yield reader.sources[source], np.ascontiguousarray(pieces_P5[:, :3]).tobytes()


class OrderHash:
    """sha256 over sample ids: source in UTF-8, a zero, the pieces' number and the pieces."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, sample: SampleId) -> None:
        source, pieces = sample
        count = (len(pieces) // 24).to_bytes(8, "little")
        self._digest.update(source.encode("utf-8") + b"\0" + count + pieces)

    def hex(self) -> str:
        return self._digest.hexdigest()


def _stage(plans: list[Plan], number: int, num_samples: int) -> dict[str, Any]:
    readers = [PlanReader(plan, number) for plan in plans]
    compared = min(num_samples, *(reader.num_samples for reader in readers))
    marks = [mark for mark in _marks(num_samples) if mark < compared] + [compared]
    hashes = [OrderHash(), OrderHash()]
    found: list[dict[str, Any]] = []
    difference: dict[str, Any] | None = None
    streams = [sample_ids(reader, range(compared)) for reader in readers]
    at = 0
    for mark in marks:
        for pair in islice(zip(*streams, strict=True), mark - at):
            for digest, sample in zip(hashes, pair, strict=True):
                digest.add(sample)
            if difference is None and pair[0] != pair[1]:
                difference = {"sample": at, "a": _describe(pair[0]), "b": _describe(pair[1])}
            at += 1
        found.append({"samples": mark, "a": hashes[0].hex(), "b": hashes[1].hex()})
    return {
        "stage": [reader.stage for reader in readers],
        "samples": [reader.num_samples for reader in readers],
        "compared": compared,
        "hashes": found,
        "first_difference": difference,
        "sources": [_coverage(reader, compared) for reader in readers],
    }


def _marks(num_samples: int) -> list[int]:
    marks, mark = [], FIRST_HASH
    while mark < num_samples:
        marks.append(mark)
        mark *= 10
    return marks


def _describe(sample: SampleId) -> dict[str, Any]:
    pieces = np.frombuffer(sample[1], dtype=np.int64).reshape(-1, 3).tolist()
    names = ("document", "first_token", "tokens")
    return {"source": sample[0], "pieces": [dict(zip(names, row, strict=True)) for row in pieces]}


def _coverage(reader: PlanReader, samples: int) -> dict[str, Any]:
    sources = reader.cursor(samples)["sources"]
    wanted = ("samples", "tokens", "epochs_done")
    return {name: {key: entry[key] for key in wanted} for name, entry in sources.items()}


def render_order(facts: dict[str, Any]) -> Group:
    """The facts for a rich console."""
    parts: list[Any] = [f"A  {escape(facts['a'])}\nB  {escape(facts['b'])}"]
    for letter, checkpoint in zip("AB", facts["continues"], strict=True):
        if checkpoint:
            parts.append(escape(f"{letter} continues {checkpoint}; compared is what comes after"))
    for stage in facts["stages"]:
        parts += _render_stage(stage)
    for letter, names in zip("AB", facts["not_compared"], strict=True):
        if names:
            parts.append(escape(f"only in {letter}, not compared: {', '.join(names)}"))
    parts.append("[green]the same order[/]" if facts["equal"] else "[red]another order[/]")
    return Group(*parts)


def _render_stage(stage: dict[str, Any]) -> list[Any]:
    names = " and ".join(dict.fromkeys(stage["stage"]))
    table = Table(
        title=escape(f"{names}: {stage['compared']:,} samples compared, of ")
        + " and ".join(f"{count:,}" for count in stage["samples"]),
        title_justify="left",
    )
    for name in ("first samples", "A", "B", ""):
        table.add_column(name, justify="right" if name == "first samples" else "left")
    for row in stage["hashes"]:
        same = "equal" if row["a"] == row["b"] else "[red]different[/]"
        table.add_row(f"{row['samples']:,}", row["a"][:16], row["b"][:16], same)
    parts: list[Any] = [table]
    if difference := stage["first_difference"]:
        parts.append(f"first difference: sample {difference['sample']:,} (from 0)")
        parts += [f"  {letter.upper()}  {_words(difference[letter])}" for letter in "ab"]
    for letter, sources in zip("AB", stage["sources"], strict=True):
        told = (
            f"{name} {entry['tokens']:,} tokens in {entry['samples']:,} samples, at epoch "
            f"{entry['epochs_done']:.3f}"
            for name, entry in sources.items()
        )
        parts.append(escape(f"{letter} after these: " + "; ".join(told)))
    return parts


def _words(sample: dict[str, Any]) -> str:
    pieces = [
        f"document {piece['document']} from {piece['first_token']:,}, {piece['tokens']:,} tokens"
        for piece in sample["pieces"][:SHOWN_PIECES]
    ]
    more = len(sample["pieces"]) - len(pieces)
    return escape(f"{sample['source']}: " + "; ".join(pieces) + (f"; {more} more" if more else ""))
