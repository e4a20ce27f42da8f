"""A model, its optimizer and random batches, built from a Setup as a training run builds them.

Shapes: B rows, S sequence.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from megatron_math.device.grid import Grid
from megatron_math.device.open import Device
from megatron_math.gpu_check.settings import Setup
from megatron_math.model.build import build_model
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset
from megatron_math.train.config import PrecisionConfig, TrainConfig
from megatron_math.train.feed import Feed, MicroBatch
from megatron_math.train.optimizer import build_optimizer, wrap_for_training
from megatron_math.train.step import Trainee

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

TE_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}
"""Parameters of a layer under the torch spec that have another name under the te spec."""

Weights = Mapping[str, torch.Tensor]


class RandomFeed:
    """In the place of a Feed: the same few global steps again and again, made beforehand.

    A token follows from the one before it in 9 of 10 cases, so that a loss can fall. Rows are cut
    into documents of uneven lengths; the last token of each carries no loss.
    """

    sources = ("random",)
    wait_seconds = 0.0

    def __init__(self, setup: Setup, vocab_size: int, device: torch.device, steps: int) -> None:
        generator = np.random.default_rng(1234)
        self._steps = [
            [_micro_batch(setup, vocab_size, device, generator) for _ in range(setup.micro_batches)]
            for _ in range(steps)
        ]

    def microbatches(self, iteration: int) -> list[MicroBatch]:
        return self._steps[iteration % len(self._steps)]


def _micro_batch(
    setup: Setup, vocab_size: int, device: torch.device, generator: np.random.Generator
) -> MicroBatch:
    shape = (setup.micro_batch, setup.sequence_length)
    tokens_BS = generator.integers(0, vocab_size, shape)
    follows_BS = generator.random(shape) < 0.9
    for at in range(1, shape[1]):
        next_B = (5 * tokens_BS[:, at - 1] + 7) % vocab_size
        tokens_BS[:, at] = np.where(follows_BS[:, at], next_B, tokens_BS[:, at])
    document_ids_BS = np.zeros(shape, dtype=np.int32)
    for row in document_ids_BS:
        starts = generator.choice(np.arange(1, shape[1]), setup.num_documents - 1, replace=False)
        row[starts] = 1
    document_ids_BS = document_ids_BS.cumsum(1, dtype=np.int32)
    loss_mask_BS = np.zeros(shape, dtype=np.float32)
    loss_mask_BS[:, :-1] = document_ids_BS[:, 1:] == document_ids_BS[:, :-1]

    def placed(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=device)

    return MicroBatch(
        tokens_BP=placed(tokens_BS),
        labels_BP=placed(np.roll(tokens_BS, -1, axis=1)),
        loss_mask_BP=placed(loss_mask_BS),
        position_ids_BP=placed(np.broadcast_to(np.arange(shape[1]), shape)),
        document_ids_BS=torch.from_numpy(document_ids_BS),
        source_B=torch.zeros(setup.micro_batch, dtype=torch.int64, device=device),
    )


def model_config(setup: Setup) -> ModelConfig:
    return load_preset(setup.preset, setup.overrides)


def build_models(setup: Setup, weights: Weights | None = None) -> list[Any]:
    """The model on an open device, not yet wrapped for training. UserError where it cannot be."""
    precision = PrecisionConfig.model_validate(
        {"dtype": setup.dtype, "spec": setup.spec} | ({"fp8": setup.fp8} if setup.fp8 else {})
    )
    more = {"fp8": getattr(precision, "fp8")} if setup.fp8 else {}  # noqa: B009 - may be unknown
    models = build_model(
        model_config(setup),
        grid=Grid(),
        dtype=DTYPES[setup.dtype],
        spec=precision.spec,
        sequence_length=setup.sequence_length,
        recompute=setup.recompute,
        **more,
    )
    if weights is not None:
        put_weights(models[0], weights)
    return models


def build_trainee(
    setup: Setup, device: Device, *, weights: Weights | None = None, lr: float, steps: int
) -> Trainee:
    """Everything that a training step works on. `steps` different global steps are made."""
    dtype = DTYPES[setup.dtype]
    models = wrap_for_training(
        build_models(setup, weights), dtype, overlap=False, half_gradients=setup.half_state
    )
    train = TrainConfig.model_validate(
        {
            "global_batch_size": setup.micro_batch * setup.micro_batches,
            "micro_batch_size": setup.micro_batch,
            "lr": lr,
            "schedule": "constant",
        }
    )
    optimizer = build_optimizer(models, train, dtype, overlap=False, half_moments=setup.half_state)
    feed = RandomFeed(setup, model_config(setup).vocab_size, device.torch_device, steps)
    return Trainee(models, optimizer, cast(Feed, feed), device)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """All parameters on the CPU in fp32, by their names under the torch spec."""
    named = model.named_parameters()
    return {torch_name(name): value.detach().float().cpu().clone() for name, value in named}


def put_weights(model: Any, weights: Weights) -> None:
    """Give the model these weights; names and shapes must be all of its own."""
    own = {torch_name(name): parameter for name, parameter in model.named_parameters()}
    assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def torch_name(name: str) -> str:
    """A parameter's name under either spec, as the torch spec has it."""
    for ours, theirs in TE_NAMES.items():
        if name.endswith("." + theirs):
            return name.removesuffix(theirs) + ours
    return name
