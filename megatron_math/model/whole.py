"""A whole model in one process, for rooms that read one: conversions, and answers to questions."""

import contextlib
from collections.abc import Iterator

import torch

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.device.start import launched_ranks
from megatron_math.model.build import build_model
from megatron_math.model.config import ModelConfig
from megatron_math.model.gpt import GPT
from megatron_math.model.lora_config import LoraConfig


@contextlib.contextmanager
def open_model(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    seed: int,
    fresh: bool,
    lora: LoraConfig | None = None,
) -> Iterator[GPT]:
    """The model in a process group of one, closed at the end.

    fresh: draw weights from the seed; else the parameters hold nothing yet and the caller fills
    every one. The spec is `torch` everywhere: what is
    made here must not depend on the machine.
    """
    rank, world, _ = launched_ranks() or (0, 1, 0)
    if world > 1:
        raise UserError(
            f"this is the work of one process, and this is rank {rank} of {world}; "
            "start it without torchrun and with one task"
        )
    grid = Grid.model_validate({})
    with open_device(grid, seed):
        models = build_model(
            config,
            grid=grid,
            dtype=dtype,
            spec="torch",
            sequence_length=config.max_sequence_length,
            lora=lora,
            perform_initialization=fresh,
        )
        yield models[0].eval()
