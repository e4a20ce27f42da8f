"""The page of docs/benchmarks from a result: every figure beside its goal, nothing left out."""

from collections.abc import Iterator, Mapping
from typing import Any

from megatron_math.gpu_check.settings import CHECKS_GOAL, GAP_GOAL, GOALS, MEMORY_GOAL, Goal


def page(result: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    parts = result["parts"]
    yield "# What a GPU computes, and how fast"
    yield ""
    yield "Written by `python tools/gpu_check.py --page docs/benchmarks/gpu.md`; do not edit."
    yield ""
    if result["size"] == "miniature":
        yield (
            "**Miniature: no GPU was at hand.** Shapes are tiny and the device is a CPU. This page "
            "shows that the script runs and that the CPU agrees with plain formulas; its speeds "
            "say nothing of a GPU, and every goal below is open."
        )
        yield ""
    yield from _machine(result)
    yield from _speed(parts, is_miniature=result["size"] == "miniature")
    yield from _parity(parts)
    yield from _endings(parts)


def _machine(result: Mapping[str, Any]) -> Iterator[str]:
    rows = result["parts"].get("machine", {}).get("rows", [])
    yield f"Run of {result['started']}, at most {result['minutes']:g} minutes."
    for row in rows:
        facts = {k: v for k, v in row.items() if k not in ("what", "kernels", "ok")}
        yield ""
        yield ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        for kernel in row.get("kernels", []):
            used = "used" if kernel["used"] else "not used"
            yield f"* {kernel['name']}: {used}: {kernel['reason']}"
    yield ""


def _speed(parts: Mapping[str, Any], *, is_miniature: bool) -> Iterator[str]:
    yield "## Tokens/s of one GPU"
    yield ""
    yield (
        "Whole training steps: core's schedule, clipping, distributed optimizer; random tokens, "
        "each row one document. Checks: core's search for NaN and infinity in the gradients, and "
        "loss and norm finite. Medians of alternated steps. Data loading, logging and checkpoints "
        "are outside."
    )
    yield ""
    yield "| part | tokens/s, checks on | off | goal | aim | best published | TFLOP/s causal / full | MFU | layers |"  # noqa: E501
    yield "|---|---:|---:|---:|---:|---|---:|---|---|"
    for name, goal in GOALS.items():
        row = _measured(parts, name)
        numbers = ("none set" if n is None else f"{n:,.0f}" for n in (goal.reach, goal.aim))
        told = " | ".join([*numbers, goal.published])
        label = f"{goal.name}, {name}"
        if row is None:
            yield f"| {label} | {_why(parts, name)} | - | {told} | - | - | - |"
            continue
        reached = "" if is_miniature else _reached(row, goal)
        mfu = f"{row['mfu']:.1%} of {row['mfu_of']}" if "mfu" in row else "peak not known"
        yield (
            f"| {label} | {row['tokens_per_second']:,.0f}{reached} "
            f"| {row['tokens_per_second_without_checks']:,.0f} | {told} "
            f"| {row['tflops_causal']:.3g} / {row['tflops_full']:.3g} | {mfu} "
            f"| {row['layers']} of {row['all_layers']} |"
        )
    yield ""
    for name in GOALS:
        yield from _speed_notes(parts, name)
    yield ""


def _reached(row: Mapping[str, Any], goal: Goal) -> str:
    if row["layers"] < row["all_layers"]:
        return " (fewer layers)"
    if goal.reach is None or goal.aim is None:
        return ""
    rate = row["tokens_per_second"]
    return " (aim)" if rate >= goal.aim else " (goal)" if rate >= goal.reach else " (below)"


def _speed_notes(parts: Mapping[str, Any], name: str) -> Iterator[str]:
    part = parts.get(name, {"rows": []})
    for row in [*part.get("tried", []), *part["rows"]]:
        reason = row.get("skipped") or row.get("out_of_memory")
        if reason and row["what"] != name:
            yield f"* {name}, not taken: {row['what']}: {reason}"
    row = _measured(parts, name)
    if row is None:
        return
    yield (
        f"* {name}: sequence {row['sequence_length']}, micro-batch {row['micro_batch']} x "
        f"{row['micro_batches']} a step, layers of spec {row['spec']}, gradients and moments in "
        f"{row['gradients_and_moments']}, recomputation {row['recompute']}; peak "
        f"{row['peak_allocated_bytes'] / 1e9:.1f} GB in tensors, "
        f"{row['peak_reserved_bytes'] / 1e9:.1f} GB reserved (estimate: "
        f"{row['expected_bytes'] / 1e9:.1f}); checks take {row['checks_share']:+.1%} of a step "
        f"(goal G5 below {CHECKS_GOAL[0]:.0%}, aim {CHECKS_GOAL[1]:.0%}, there with metrics, data "
        f"and checkpoints); {len(row['seconds_with_checks'])} pairs."
    )
    if name == "speed-8b-fp8":
        yield (
            f"* G9, peak of the row above: below {MEMORY_GOAL[0] / 1e9:.0f} GB, aim "
            f"{MEMORY_GOAL[1] / 1e9:.0f} GB."
        )
    if "extrapolated_tokens_per_second" in row:
        yield (
            f"* {name}, **extrapolated** to {row['all_layers']} layers: "
            f"{row['extrapolated_tokens_per_second']:,.0f} tokens/s; {row['extrapolation']}."
        )


def _measured(parts: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    rows = parts.get(name, {}).get("rows", [])
    return next((row for row in rows if "tokens_per_second" in row), None)


def _why(parts: Mapping[str, Any], name: str) -> str:
    """Why a part has no figure."""
    part = parts.get(name, {"status": "not run", "rows": []})
    reasons = [row["skipped"] for row in part["rows"] if "skipped" in row]
    return ": ".join([part["status"], *(reasons or [part.get("reason", "")])]).rstrip(": ")


def _parity(parts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Does it compute the right thing?"
    yield ""
    yield (
        "Relative errors: of single kernels the largest difference over the largest value, "
        "gradients included; of a model's tensors the norm of the difference over the norm; of "
        "losses the worst step. FP8: gap of the loss to bf16 in a few steps of a small model "
        f"(goal G7 for a whole run: below {GAP_GOAL[0]:.1%}, aim {GAP_GOAL[1]:.1%})."
    )
    yield ""
    yield "| part | what | error | limit | |"
    yield "|---|---|---:|---:|---|"
    for name in ("units", "reference", "model", "te", "fp8"):
        for row in parts.get(name, {}).get("rows", []):
            if "skipped" in row:
                yield f"| {name} | {row['what']} | - | - | skipped: {row['skipped']} |"
                continue
            verdict = "right" if row.get("ok") else f"**wrong** {row.get('failed', '')}"
            error, limit = (f"{row[k]:.1e}" if k in row else "-" for k in ("error", "limit"))
            yield f"| {name} | {row['what']} | {error} | {limit} | {verdict} |"
    yield ""


def _endings(parts: Mapping[str, Any]) -> Iterator[str]:
    yield "## How each part ended"
    yield ""
    for name, part in parts.items():
        taken = f" in {part['seconds']:.0f} s" if "seconds" in part else ""
        reasons = [row["skipped"] for row in part["rows"] if "skipped" in row]
        why = f": {part['reason']}" if "reason" in part else ""
        if part["status"] == "skipped" and reasons:
            why = f": {reasons[0]}"
        yield f"* {name}: {part['status']}{taken}{why}"
        for line in part.get("last_lines", []):
            yield f"      {line}"
