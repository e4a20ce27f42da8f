"""A small model on this device against the same one on the CPU in fp32: what comes out, the
gradient of every parameter, and the losses of some training steps. Also Transformer Engine's layers
against ours, and FP8 against bf16.

Shapes: B rows, S sequence, V vocabulary.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.device.open import Device, open_device
from megatron_math.gpu_check.rows import Row, Save, compared, skipped
from megatron_math.gpu_check.settings import RECIPES, Settings, Setup
from megatron_math.gpu_check.trainee import (
    Weights,
    build_models,
    build_trainee,
    model_config,
    weights_of,
)
from megatron_math.train.step import train_step

LR = 1e-3
KINDS = ("logits", "gradients", "one gradient", "losses", "norms")
LIMITS = {
    "fp32": dict(zip(KINDS, (1e-4, 1e-4, 1e-3, 1e-4, 1e-3), strict=True)),
    "bf16": dict(zip(KINDS, (2e-2, 5e-2, 2e-1, 2e-2, 5e-2), strict=True)),
}
"""Relative errors: of whole tensors by their norms, of losses and gradient norms the worst step."""
FP8_LIMIT = 0.02
"""Of the loss over a few steps of a small model: a broken recipe is far above it."""

Record = dict[str, Any]


def write_reference(settings: Settings, folder: Path, save: Save) -> None:
    """The fp32 figures of this process, which sees no GPU, in `folder`."""
    with open_device(Grid(), seed=1) as device:
        weights = weights_of(build_models(settings.small)[0])
        found = record(settings.small, device, weights, settings.steps)
    torch.save({"weights": weights, "record": found}, reference_file(folder))
    first, last = found["losses"][0], found["losses"][-1]
    falls = bool(last < first)  # a model that learns nothing would agree with anything
    save([{"what": "reference, fp32 on the CPU", "first loss": first, "last loss": last,
           "ok": falls}])  # fmt: skip


def reference_file(folder: Path) -> Path:
    return folder / "reference.pt"


def record(setup: Setup, device: Device, weights: Weights, steps: int) -> Record:
    """Logits and gradients of the first micro-batch, then losses and norms of `steps` steps."""
    found: Record = {}
    trainee = build_trainee(setup, device, weights=weights, lr=LR, steps=steps)
    batch = trainee.feed.microbatches(0)[0]
    model = build_models(setup, weights)[0]
    inputs = batch.tokens_BP, batch.position_ids_BP, batch.document_ids_BS
    with torch.no_grad():
        logits_BSV = model(*inputs)[..., : model_config(setup).vocab_size]
    found["logits"] = logits_BSV.float().cpu()
    loss_BS = model(*inputs, labels=batch.labels_BP, loss_mask=batch.loss_mask_BP)
    (loss_BS * batch.loss_mask_BP).sum().backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad if parameter.grad is not None else 0 * parameter.data
    found["gradients"] = weights_of(model)
    del model
    return found | curves(trainee, steps)


def curves(trainee: Any, steps: int) -> Record:
    """Loss and gradient norm of each of `steps` training steps."""
    results = [train_step(trainee, step, lr=LR, weight_decay=0.1) for step in range(steps)]
    return {"losses": [r.loss for r in results], "norms": [r.grad_norm for r in results]}


def rows_of(what: str, found: Record, wanted: Record, limits: dict[str, float]) -> list[Row]:
    """One row for each kind of figure."""
    gradients = [torch.cat([g.flatten() for g in r["gradients"].values()]) for r in (found, wanted)]
    each = {
        name: distance(found["gradients"][name], gradient)
        for name, gradient in wanted["gradients"].items()
    }
    worst = max(each, key=lambda name: each[name] if each[name] == each[name] else float("inf"))
    return [
        compared(f"{what}: logits", distance(found["logits"], wanted["logits"]), limits["logits"]),
        compared(f"{what}: all gradients", distance(*gradients), limits["gradients"]),
        compared(f"{what}: worst gradient", each[worst], limits["one gradient"], parameter=worst),
        compared(f"{what}: losses", worst_step(found["losses"], wanted["losses"]),
                 limits["losses"], steps=len(wanted["losses"])),
        compared(f"{what}: gradient norms", worst_step(found["norms"], wanted["norms"]),
                 limits["norms"], steps=len(wanted["norms"])),
    ]  # fmt: skip


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def worst_step(found: list[float], wanted: list[float]) -> float:
    """Largest relative difference; NaN when one is NaN."""
    ours, theirs = torch.tensor(found), torch.tensor(wanted)
    return float(((ours - theirs).abs() / theirs.abs()).amax())


def check_model(settings: Settings, folder: Path, save: Save) -> None:
    """Our own layers on this device in fp32 and bf16 against the reference."""
    known = torch.load(reference_file(folder), weights_only=True)
    rows: list[Row] = []
    with open_device(Grid(), seed=1) as device:
        for dtype in ("fp32", "bf16"):
            setup = replace(settings.small, dtype=dtype)
            found = record(setup, device, known["weights"], settings.steps)
            rows += rows_of(f"torch layers, {dtype}", found, known["record"], LIMITS[dtype])
            save(rows)


def check_te(settings: Settings, folder: Path, save: Save) -> None:
    """Transformer Engine's layers in bf16 against the reference and against ours in bf16."""
    lacking = without_te()
    if lacking is not None:
        save([skipped("Transformer Engine's layers", lacking)])
        return
    known = torch.load(reference_file(folder), weights_only=True)
    rows: list[Row] = []
    with open_device(Grid(), seed=1) as device:
        records = {}
        for spec in ("torch", "te"):
            setup = replace(settings.small, dtype="bf16", spec=spec)
            records[spec] = record(setup, device, known["weights"], settings.steps)
        rows += rows_of("te layers, bf16", records["te"], known["record"], LIMITS["bf16"])
        rows += rows_of(
            "te layers against torch layers, bf16", records["te"], records["torch"], LIMITS["bf16"]
        )
        save(rows)


def without_te() -> str | None:
    """Why Transformer Engine cannot run here; None where it can."""
    if importlib.util.find_spec("transformer_engine") is None:
        return "Transformer Engine is not installed"
    from megatron_math.device.open import device_kind

    return "Transformer Engine needs a GPU" if device_kind() == "cpu" else None


def check_fp8(settings: Settings, folder: Path, save: Save) -> None:
    """Each recipe, through Transformer Engine and emulated: losses against bf16 in the same layers.

    A recipe that raises is a row; the others go on.
    """
    known = torch.load(reference_file(folder), weights_only=True)
    lacking = without_te()
    rows: list[Row] = []
    small = replace(settings.small, dtype="bf16")
    if small.sequence_length * small.micro_batch % 128:
        raise AssertionError("blockwise scaling wants whole blocks of 128 tokens")
    with open_device(Grid(), seed=1) as device:
        for backend, spec in (("te", "te"), ("emulate", "torch")):
            if backend == "te" and lacking is not None:
                rows += [skipped(f"FP8 {recipe}, te", lacking) for recipe in RECIPES]
                continue
            losses: dict[str, list[float]] = {}
            for recipe in ("bf16", *RECIPES):
                fp8 = None if recipe == "bf16" else {"recipe": recipe, "backend": backend}
                setup = replace(small, spec=spec, fp8=fp8)  # type: ignore[arg-type]
                what = f"FP8 {recipe}, {backend}"
                try:
                    trainee = build_trainee(
                        setup, device, weights=known["weights"], lr=LR, steps=settings.steps
                    )
                    losses[recipe] = curves(trainee, settings.steps)["losses"]
                except UserError as error:
                    rows.append(skipped(what, str(error)))
                except Exception as error:  # noqa: BLE001 - whatever a kernel raises is its row
                    rows.append({"what": what, "ok": False,
                                 "failed": f"{type(error).__name__}: {error}"[:500]})  # fmt: skip
                else:
                    rows += _gap_row(what, recipe, losses)
                save(rows)


def _gap_row(what: str, recipe: str, losses: dict[str, list[float]]) -> list[Row]:
    """Relative gap of the last five losses' mean; the sign says whether FP8 is worse."""
    if recipe == "bf16":
        return []
    if "bf16" not in losses:
        return [skipped(what, "bf16 itself did not run")]
    ours, theirs = (sum(losses[name][-5:]) / len(losses[name][-5:]) for name in (recipe, "bf16"))
    row = compared(what, abs(ours / theirs - 1), FP8_LIMIT, gap=ours / theirs - 1)
    if losses[recipe] == losses["bf16"]:  # then no cast took place
        row |= {"ok": False, "failed": "the losses are those of bf16 to the last digit"}
    return [row]
