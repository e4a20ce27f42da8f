"""The warm-up road: its checkpoints, how much each counts, and a model filled from one of them.

Reads <run>/50_train: checkpoints/, metrics.jsonl. Loads torch only to open a model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file
from megatron_math.checkpoint.folders import (
    COMPLETE,
    Checkpoint,
    complete_checkpoints,
    open_checkpoint,
)
from megatron_math.device.grid import Grid
from megatron_math.device.start import launched_ranks
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import checkpoint_lora

if TYPE_CHECKING:  # loads torch
    from megatron_math.curate.influence.gradients import AdamState
    from megatron_math.model.gpt import GPT


@dataclass(frozen=True)
class Reference:
    """A checkpoint at which gradients are compared. weight: its share of the learning rate."""

    checkpoint: Checkpoint
    weight: float

    @property
    def iteration(self) -> int:
        assert self.checkpoint.iteration is not None
        return self.checkpoint.iteration

    @property
    def digest(self) -> str:
        """Of all that is in it."""
        return sha256_file(self.checkpoint.folder / COMPLETE)


def references(training: Path, wanted: list[int] | None) -> list[Reference]:
    """The checkpoints of a warm-up, weighted by the mean learning rate of the steps behind each.

    training: its 50_train. The steps of a checkpoint are those since the one before it, among
    those that count. Raises UserError where one is missing, has no adapters or has experts.
    """
    found = {c.iteration: c for c in complete_checkpoints(training / "checkpoints")}
    chosen = sorted(set(wanted) if wanted is not None else [n for n in found if n is not None])
    missing = [number for number in chosen if number not in found]
    if missing or not chosen:
        raise UserError(
            f"curate.influence.checkpoints: {training} has no checkpoint of iteration "
            f"{', '.join(map(str, missing)) or 'any number'}; it has "
            f"{', '.join(map(str, found)) or 'none'} (checkpoint.keep says how many stay)"
        )
    for number in chosen:
        if checkpoint_lora(found[number].folder) is None:
            raise UserError(
                f"curate.influence.run: {found[number].folder} has no adapters; train the warm-up "
                "with train.lora"
            )
        if _model_of(found[number]).num_experts is not None:
            raise UserError(
                f"curate.influence.run: {found[number].folder} has experts, which influence cannot "
                "be computed with; choose a dense model for the warm-up"
            )
    rates = _learning_rates(training / "metrics.jsonl")
    means, before = [], 0
    for number in chosen:
        steps = [rates[n] for n in range(before + 1, number + 1) if n in rates]
        if not steps:
            raise UserError(f"{training / 'metrics.jsonl'} has no iteration up to {number}")
        means.append(sum(steps) / len(steps))
        before = number
    return [
        Reference(found[number], mean / sum(means))
        for number, mean in zip(chosen, means, strict=True)
    ]


def _model_of(checkpoint: Checkpoint) -> ModelConfig:
    return ModelConfig.model_validate(checkpoint.read("model.json"))


def _learning_rates(path: Path) -> dict[int, float]:
    """By iteration; of one that was done again the last."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["iteration"]: row["learning-rate"] for row in rows}


@contextmanager
def opened(
    reference: Reference, *, max_tokens: int, dtype: Literal["fp32", "bf16"]
) -> Iterator[tuple["GPT", "AdamState"]]:
    """The model of a checkpoint, in this process alone, and its optimizer's state of the adapters.

    Raises UserError for a damaged checkpoint, or where several processes were started together.
    """
    import torch

    from megatron_math.checkpoint.state import load_moments, load_weights
    from megatron_math.curate.influence.gradients import AdamState
    from megatron_math.device.open import open_device
    from megatron_math.model.build import build_model
    from megatron_math.model.lora import is_adapter

    rank, world, _ = launched_ranks() or (0, 1, 0)
    if world > 1:
        raise UserError(
            f"gradients are the work of one process, and this is rank {rank} of {world}; start "
            "more with --shard I/N, each without torchrun and with one task"
        )
    checkpoint = open_checkpoint(reference.checkpoint.folder)
    config = _model_of(checkpoint)
    train = checkpoint.read("config.json")["train"]
    grid = Grid.model_validate({})
    with open_device(grid, 0):
        models = build_model(
            config,
            grid=grid,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
            spec="torch",
            sequence_length=min(max_tokens, config.max_sequence_length),
            lora=checkpoint_lora(checkpoint.folder),
            perform_initialization=False,
        )
        load_weights(models, checkpoint.folder)
        factors = [p for name, p in models[0].named_parameters() if is_adapter(name)]
        num_steps, moments = load_moments(models, factors, checkpoint.folder)
        yield (
            models[0],
            AdamState(
                train["adam_beta1"], train["adam_beta2"], train["adam_eps"], num_steps, moments
            ),
        )
