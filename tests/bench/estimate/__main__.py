"""Write docs/benchmarks/estimate.md: every published figure beside its estimate.

python tests/bench/estimate [--fit | --measure]
--fit: print the shares that fit best, for shares.yaml; --measure: the bytes of real tensors again
"""

import json
import sys
from pathlib import Path

from published import (
    DATA,
    FITTED,
    Row,
    Shares,
    fit,
    leave_one_out,
    mean_factor,
    rows,
    shipped,
)

from megatron_math.device.start import start_processes
from megatron_math.estimate.activations import layer_bytes_per_token
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import stage_memory
from megatron_math.estimate.speed import Speed
from megatron_math.model.config import ModelConfig

GIB = 1024**3
MEASURED = Path(__file__).parent / "measured.json"
MEASURE = Path(__file__).resolve().parents[2] / "estimate" / "measured.py"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "estimate.md"


def source_number(row: Row) -> int:
    return list(DATA["sources"].values()).index(row.source) + 1


def speed_table(shares: Shares) -> list[str]:
    lines = [
        "| configuration | GPU, precision | published tok/s/GPU | estimate | error | left out "
        "| TFLOP/s half, full | MFU | largest term | source | assumed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for row in rows():
        speed = row.speed(shares)
        left_out = leave_one_out(row)
        lines.append(
            f"| {row.what} | {row.gpu.name.split(' (')[0]}, {row.layout.precision} "
            f"| {row.tokens_per_second:,.0f} | {speed.tokens_per_second_per_gpu:,.0f} "
            f"| {_signed(row.error(shares))} | {'-' if left_out is None else _signed(left_out)} "
            f"| {speed.tflops_causal:,.0f}, {speed.tflops_full:,.0f} | {speed.mfu:.1%} "
            f"| {_largest_term(speed)} "
            f"| {source_number(row)} | {row.assumed} |"
        )
    return lines


def memory_table(kind: str) -> list[str]:
    lines = [
        "| configuration | precision | logged GiB | estimate | error |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows(kind):
        if row.memory_gib is not None:
            estimated = row.memory().allocated / GIB
            lines.append(
                f"| {row.what} | {row.layout.precision} | {row.memory_gib:.1f} "
                f"| {estimated:.1f} | {_signed(estimated / row.memory_gib - 1)} |"
            )
    return lines


def measured_table() -> list[str]:
    """Bytes of one rank in two processes on a CPU, and what the estimate says."""
    lines = [
        "| layout | weights | gradients | optimizer | a layer keeps |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in json.loads(MEASURED.read_text()).items():
        layout, model = Layout.from_json(found["layout"]), ModelConfig(**found["model"])
        for rank in found["ranks"] if "pipeline" in name else found["ranks"][:1]:
            memory = stage_memory(model, layout, rank["stage"])
            pairs = [(rank[k], getattr(memory, k)) for k in ("weights", "gradients", "optimizer")]
            if "layer" in rank:  # routers choose freely: the mean over the ranks
                layer = layer_bytes_per_token(model, layout) * layout.tokens_per_micro_batch
                kept = sum(each["layer"] for each in found["ranks"]) // len(found["ranks"])
                pairs.append((kept, layer))
            cells = [f"{real:,} ({_signed(guess / real - 1)})" for real, guess in pairs]
            where = f", stage {rank['stage']}" if "pipeline" in name else ""
            lines.append(f"| {name}{where} | " + " | ".join([*cells, "-"][:4]) + " |")
    return lines


def held_out_table(shares: Shares) -> list[str]:
    lines = [
        "| configuration | precision | recompute | published tok/s/GPU | estimate | error |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows("held_out"):
        estimated = row.speed(shares).tokens_per_second_per_gpu
        lines.append(
            f"| {row.what} | {row.layout.precision} | {row.layout.recompute} "
            f"| {row.tokens_per_second:,.0f} | {estimated:,.0f} | {_signed(row.error(shares))} |"
        )
    return lines


def outside_table(kind: str, shares: Shares) -> list[str]:
    """Rows of experts or of adapters, each with its error and its largest term."""
    lines = [
        "| configuration | precision | published tok/s/GPU | estimate | error | largest term "
        "| source | assumed |",
        "|---|---|---:|---:|---:|---|---|---|",
    ]
    for row in rows(kind):
        speed = row.speed(shares)
        lines.append(
            f"| {row.what} | {row.layout.precision} | {row.tokens_per_second:,.0f} "
            f"| {speed.tokens_per_second_per_gpu:,.0f} | {_signed(row.error(shares))} "
            f"| {_largest_term(speed)} | {source_number(row)} | {row.assumed} |"
        )
    return lines


def _largest_term(speed: Speed) -> str:
    """After matrix products."""
    step = {name: value for name, value in vars(speed.step).items() if name != "matmul"}
    term = max(step, key=lambda name: step[name])
    return f"{term.replace('_', ' ')} {step[term] / speed.step.total:.0%}"


def constants_table(shares: Shares) -> list[str]:
    lines = [
        "| architecture, precision | share of the dense peak | rows | mean error | left out |",
        "|---|---:|---:|---:|---:|",
    ]
    for constant in FITTED:
        deciding = [row for row in rows() if row.constant == constant]
        errors = [row.error(shares) for row in deciding]
        without = [leave_one_out(row) for row in deciding]
        known = [error for error in without if error is not None]
        lines.append(
            f"| {constant[0]}, {constant[1]} | {shares[constant]:.3f} | {len(deciding)} "
            f"| {mean_factor(errors):.1%} | {f'{mean_factor(known):.1%}' if known else '-'} |"
        )
    return lines


def do_not_fit() -> list[str]:
    """Rows that ran, and that the memory estimate would have refused."""
    found = []
    for row in (*rows(), *rows("held_out")):
        memory = row.memory()
        if memory.total > row.gpu.memory_bytes:
            found.append(
                f"* {row.what}, {row.layout.precision}: {memory.total / GIB:.1f} GiB of "
                f"{row.gpu.memory_bytes / GIB:.1f}, {memory.largest} "
                f"{getattr(memory, memory.largest) / GIB:.1f}"
            )
    return found


def page(shares: Shares) -> str:
    errors = [row.error(shares) for row in rows()]
    outside = [row.error(shares) for row in rows("held_out")]
    left = [leave_one_out(row) for row in rows()]
    known = [error for error in left if error is not None]
    everything = len(rows()) + len(rows("held_out"))
    template = (Path(__file__).parent / "page.md").read_text(encoding="utf-8")
    values = {
        "rows": len(errors),
        "within": sum(abs(error) <= 0.2 for error in errors),
        "left_within": sum(abs(error) <= 0.2 for error in known),
        "left_rows": len(known),
        "worst": _signed(max(errors, key=abs)),
        "held_out_rows": len(outside),
        "held_out_within": sum(abs(error) <= 0.2 for error in outside),
        "held_out_worst": _signed(max(outside, key=abs)),
        "held_out_mean": f"{mean_factor(outside):.1%}",
        "mean": f"{mean_factor(errors):.1%}",
        "speed_table": "\n".join(speed_table(shares)),
        "constants_table": "\n".join(constants_table(shares)),
        "memory_listed": "\n".join(memory_table("rows")),
        "memory_held_out": "\n".join(memory_table("held_out")),
        "held_out_table": "\n".join(held_out_table(shares)),
        "experts_table": "\n".join(outside_table("experts", shares)),
        "adapters_table": "\n".join(outside_table("adapters", shares)),
        "measured_table": "\n".join(measured_table()),
        "not_estimated": "\n".join(
            f"| {entry['figure']} | {entry['reason']} |" for entry in DATA["not_estimated"]
        ),
        "refused": "\n".join(do_not_fit()),
        "refused_rows": len(do_not_fit()),
        "everything": everything,
        "sources": "\n".join(
            f"{number}. {source}" for number, source in enumerate(DATA["sources"].values(), 1)
        ),
    }
    for name, value in values.items():
        template = template.replace("{{" + name + "}}", str(value))
    assert "{{" not in template, "a value of page.md is not known"
    return template


def _signed(error: float) -> str:
    return f"{error:+.1%}"


if __name__ == "__main__":
    if "--fit" in sys.argv:
        for (architecture, precision), share in fit(rows(), shipped()).items():
            print(f"{architecture} {precision}: {share}")
    elif "--measure" in sys.argv:
        sys.exit(start_processes([sys.executable, str(MEASURE), str(MEASURED)], 2))
    else:
        PAGE.write_text(page(shipped()), encoding="utf-8")
        print(f"wrote {PAGE}")
