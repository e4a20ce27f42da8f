"""Results as JSON and as a page: docs/benchmarks/train.{json,md}."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "data_plane"))

from page import describe_run

__all__ = ["describe_run"]

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = REPOSITORY / "docs" / "benchmarks" / "train.md"
RESULTS = PAGE.with_suffix(".json")
TEMPLATE = Path(__file__).parent / "page.md"
NOTHING = "Nothing is recorded yet."


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def save(path: Path, records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")


def _row(what: str, floor: float | None, aim: float | None, value: dict, cells: str) -> str:
    limits = " | ".join("-" if limit is None else f"{limit:g}" for limit in (floor, aim))
    return (
        f"| {what} | {limits} | {value['median']:.3f} | {value['low']:.3f} to {value['high']:.3f} "
        f"| {value['pairs']} | {cells} |"
    )


def table(records: dict[str, Any]) -> str:
    """A table for each case and precision, and who is missing from it."""
    if not records:
        return NOTHING
    lines: list[str] = []
    for name, record in records.items():
        machine, shape, tokens = record["machine"], record["shape"], record["tokens_per_step"]
        lines += [
            f"### {name}",
            "",
            f"{record['parameters'] / 1e6:.1f} M parameters: hidden {shape['hidden']}, "
            f"{shape['layers']} layers, {shape['heads']} heads, SwiGLU {shape['ffn']}, vocabulary "
            f"{shape['vocabulary']:,}; {shape['batch']} rows of {shape['sequence_length']} tokens "
            f"a step. Commit {record['commit']}, {record['date']}, {machine['processor']}, "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, load before "
            f"{machine['load_before']}.",
            "",
            "| against | floor | aim | ours is faster by (median) | interval | pairs | peer "
            "| ours | largest difference of a loss |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for peer in record["peers"].values():
            theirs, own = (
                tokens / statistics.median(pair[i] for pair in peer["seconds"]) for i in (0, 1)
            )
            cells = (
                f"{theirs:,.0f} tok/s | {own:,.0f} tok/s | {peer['largest_loss_difference']:.1e}"
            )
            lines.append(_row(peer["title"], peer["floor"], peer["aim"], peer["ratio"], cells))
        if record["start"]:
            theirs, own = (
                statistics.median(pair[i] for pair in record["start"]["seconds"]) for i in (0, 1)
            )
            cells = f"{theirs:.1f} s | {own:.1f} s | -"
            what = "command to first step, fp32, Hugging Face Trainer"
            lines.append(_row(what, 1.0, None, record["start"]["ratio"], cells))
        floors = (0.7, 0.85) if record["dtype"] == "fp32" else (None, None)
        flops, products = record["flops_per_step"], record["matmul_seconds"]
        theirs, own = (flops / statistics.median(pair[i] for pair in products) for i in (0, 1))
        cells = f"{theirs / 1e9:,.0f} GFLOP/s | {own / 1e9:,.0f} GFLOP/s | -"
        what = "share of the rate of torch.mm, 2,048 x 2,048"
        lines.append(_row(what, *floors, record["matmul_share"], cells))
        for who, reason in record["refused"].items():
            lines += ["", f"Not measured: {who}: {reason.splitlines()[0]}"]
        lines.append("")
    versions = next(reversed(records.values()))["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*lines, f"Versions: {told}."])


def write_page(records: dict[str, Any]) -> None:
    text = TEMPLATE.read_text(encoding="utf-8").replace("{{table}}", table(records))
    PAGE.write_text(text, encoding="utf-8")
