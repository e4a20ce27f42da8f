"""Tensors in and out of Megatron's `torch_dist` format, through megatron.core.

Weights are saved under Megatron-Core's own keys, so that plain core (and Megatron-LM) loads them
and any layout reads what any other wrote. The optimizer state is saved in core's fully reshardable
form, which any layout reads too, but written and read in pieces (pieces.py, saver.py).
"""

import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_math.base.errors import UserError
from megatron_math.checkpoint.guard import check_extra_state, guard_folder, read_metadata
from megatron_math.checkpoint.pieces import optimizer_pieces
from megatron_math.device.optimizer_state import (
    OwnedRange,
    load_optimizer_state,
    owned_ranges,
)

# What torch and core raise for other names or shapes; torch's own is no subclass of Exception.
_MAY_BE_MISSING = ".fp8_state"
"""In keys of what delayed FP8 scaling remembers: FP8 goes on and off between checkpoints."""

_DOES_NOT_FIT = (CheckpointingException, CheckpointException, KeyError, RuntimeError, ValueError)


def unwrapped(model: Any) -> Any:
    """The GPTModel inside core's data-parallel and half-precision wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model


def model_state(models: Sequence[Any]) -> dict[str, Any]:
    """Sharded state of this rank's model chunks, under the names Megatron-LM gives them."""
    plain = [unwrapped(model) for model in models]
    names = ["model"] if len(plain) == 1 else [f"model{number}" for number in range(len(plain))]
    return {name: model.sharded_state_dict() for name, model in zip(names, plain, strict=True)}


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """The dtype of the weights in a torch_dist checkpoint.

    Raises UserError when the folder holds no such weights.
    """
    name = "embedding.word_embeddings.weight"
    try:
        entry = read_metadata(folder).state_dict_metadata.get(name)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a pickle: torch raises many kinds
        raise UserError(f"{folder} is not a torch_dist checkpoint: {error}") from error
    if not isinstance(entry, TensorStorageMetadata):
        raise UserError(f"{folder} holds no {name}; is it a checkpoint of a GPT model?")
    dtype = entry.properties.dtype
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(f"{folder} holds weights of {dtype}; supported: fp32, bf16, fp16")
    return dtype


def save_weights(models: Sequence[Any], folder: Path) -> None:
    """Write the weights of all ranks into the existing, empty `folder`. Collective."""
    _save(model_state(models), folder)


def load_weights(
    models: Sequence[Any], folder: Path, *, part: Callable[[str], bool] | None = None
) -> None:
    """Fill the models from `folder`, whatever layout wrote it. Collective.

    part: which names to fill; the others are neither read nor changed. Raises UserError when names
    or shapes do not fit: a checkpoint of another architecture.
    """
    state = model_state(models)
    if part is not None:
        state = {
            chunk: {name: value for name, value in names.items() if part(name)}
            for chunk, names in state.items()
        }
    _fill(models, _load(state, folder, beside="optimizer.", part=part), part)


def load_training_state(models: Sequence[Any], optimizer: Any, folder: Path) -> None:
    """Fill models and optimizer from `folder`, whatever layout wrote it. Collective.

    Beside the weights a rank reads what its part of the optimizer holds, no more.
    """
    weights = model_state(models)
    wanted = [
        replace(item, state={name: torch.empty_like(value) for name, value in item.state.items()})
        for item in owned_ranges(optimizer)
    ]
    loaded = _load(weights | {"pieces": optimizer_pieces(weights, wanted)}, folder)
    _fill(models, loaded)
    load_optimizer_state(optimizer, loaded["optimizer"], wanted)


def load_moments(
    models: Sequence[Any], weights: Sequence[torch.Tensor], folder: Path
) -> tuple[int, dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
    """Adam's steps so far, and both of its moments, flat and fp32, of the models' `weights`.

    No optimizer is made, and nothing else is read. Collective.
    """
    names = ("exp_avg", "exp_avg_sq")
    wanted = [
        OwnedRange(
            weight,
            0,
            weight.numel(),
            {
                name: torch.empty(weight.numel(), dtype=torch.float32, device=weight.device)
                for name in names
            },
        )
        for weight in weights
    ]
    pieces = optimizer_pieces(model_state(models), wanted)
    loaded = _load({"pieces": pieces}, folder, beside="")
    common = loaded["optimizer"]
    groups = [
        group
        for entry in [common, *(common[key] for key in common if isinstance(key, int))]
        for group in entry.get("optimizer", {}).get("param_groups", [])
    ]
    moments = {item.weight: (item.state[names[0]], item.state[names[1]]) for item in wanted}
    return max(int(group["step"]) for group in groups), moments


def _save(state: dict[str, Any], folder: Path) -> None:
    # Core would start a manager process for this queue. A synchronous save reads the results in
    # the process that wrote them, so a plain queue does, costs nothing and leaves no orphan
    # behind a kill.
    filesystem_async._results_queue = queue.SimpleQueue()
    dist_checkpointing.save(state, str(folder))


def _load(
    state: dict[str, Any],
    folder: Path,
    *,
    beside: str | None = None,
    part: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """Load exactly what `state` asks for; keys that start with `beside`, and those that are not
    of the `part`, may be left unread.

    State of FP8 scaling may be missing on either side.
    """
    guard_folder(folder)
    try:
        loaded, unread, absent = dist_checkpointing.load(
            state, str(folder), strict=StrictHandling.RETURN_ALL
        )
    except _DOES_NOT_FIT as error:
        # torch wraps what failed on each rank, tracebacks and all; the first one says enough.
        failures = error.failures if isinstance(error, CheckpointException) else {}
        cause = next((failure for failure, _ in failures.values()), error)
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(
            f"the checkpoint {folder} does not fit this model: {cause!s:.600}"
        ) from error
    unread = {
        key
        for key in unread
        if (beside is None or not key.startswith(beside)) and (part is None or part(key))
    }
    unread, absent = ({k for k in keys if _MAY_BE_MISSING not in k} for keys in (unread, absent))
    if unread or absent:
        raise UserError(
            f"the checkpoint {folder} holds another architecture: {len(absent)} tensors of this "
            f"model are not in it {sorted(absent)[:4]}, {len(unread)} of its tensors are not in "
            f"this model {sorted(unread)[:4]}"
        )
    return loaded


def _fill(
    models: Sequence[Any], loaded: dict[str, Any], part: Callable[[str], bool] | None = None
) -> None:
    plain = [unwrapped(model) for model in models]
    for number, model in enumerate(plain):
        values = loaded["model" if len(plain) == 1 else f"model{number}"]
        for name, value in values.items():
            if name.endswith("_extra_state"):
                check_extra_state(name, value)
        absent = model.load_state_dict(values, strict=part is None).missing_keys
        assert part is None or not any(map(part, absent)), absent
