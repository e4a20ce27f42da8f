"""Which rectangles of the model's tensors this rank writes and reads.

Core's distributed optimizer cuts a flat buffer of all weights evenly among the replicas, so that
what a rank owns of a weight is a range of its flattened values. On disk every tensor has the shape
that it has in the model, whatever layout wrote it. A range of flattened values is a few rectangles
of the tensor, and torch's format stores any rectangles: each rank writes what it owns, and reads it
again, and nothing is gathered. Core's own way to the same files (megatron-core 0.16.1) gathers the
whole optimizer state on every rank first, 12 bytes a weight, 96 GB for 8B weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensorFactory,
    is_main_replica,
)

from megatron_math.device.optimizer_state import OwnedRange

STATE_PREFIX = "optimizer.state"
"""`optimizer.state.exp_avg.<name of the weight>`: where core keeps the optimizer's tensors."""

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and shape of a rectangle."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of one of the model's tensors and this rank's values of it."""

    key: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    """Of the rectangle's first value in the whole tensor."""
    values: torch.Tensor
    """Of the rectangle's shape."""


@dataclass(frozen=True)
class RankState:
    """What this rank writes into a checkpoint."""

    pieces: list[Piece]
    objects: dict[str, Any]
    """What is no tensor, such as the scaling that FP8 remembers, by core's keys."""


def rank_state(
    model_state: Mapping[str, Any], owned: Sequence[OwnedRange], in_optimizer: set[torch.Tensor]
) -> RankState:
    """This rank's part of weights and optimizer state; all ranks' parts are everything, once.

    model_state: core's sharded state, whose tensors are the weights themselves. owned: what this
    rank's optimizer holds. in_optimizer: the weights that it holds on this or another rank.
    """
    ranges = {item.weight: item for item in owned}
    pieces: list[Piece] = []
    objects: dict[str, Any] = {}
    for entry in nested_values(model_state):
        if isinstance(entry, ShardedObject):
            if is_main_replica(entry.replica_id):
                objects[entry.unique_key] = entry.data
            continue
        if not isinstance(entry, ShardedTensor | ShardedTensorFactory):
            continue
        weight = entry.data
        if weight not in in_optimizer:
            if is_main_replica(entry.replica_id):
                flat = weight.detach().reshape(-1)
                pieces += _pieces(entry, weight, flat, 0, "")
        elif weight in ranges and _is_first_copy(entry.replica_id):
            item = ranges[weight]
            flat = weight.detach().view(-1)[item.start : item.end]
            pieces += _pieces(entry, weight, flat, item.start, "")
            for name, values in item.state.items():
                pieces += _pieces(entry, weight, values, item.start, f"{STATE_PREFIX}.{name}.")
    return RankState(pieces, objects)


def optimizer_pieces(
    model_state: Mapping[str, Any], wanted: Sequence[OwnedRange]
) -> list[ShardedTensor]:
    """Rectangles to read so that the flat tensors of `wanted` are filled, of every replica."""
    entries = {
        entry.data: entry
        for entry in nested_values(model_state)
        if isinstance(entry, ShardedTensor | ShardedTensorFactory)
    }
    pieces: list[Piece] = []
    for item in wanted:
        for name, values in item.state.items():
            prefix = f"{STATE_PREFIX}.{name}."
            pieces += _pieces(entries[item.weight], item.weight, values, item.start, prefix)
    return [
        ShardedTensor(
            piece.key,
            piece.values,
            piece.values.dtype,
            local_shape=tuple(piece.values.shape),
            global_shape=piece.global_shape,
            global_offset=piece.offset,
            axis_fragmentations=None,
        )
        for piece in pieces
    ]


def boxes(shape: Sequence[int], start: int, end: int) -> Iterator[Box]:
    """Rectangles that make up values `start` to `end` of a flattened tensor, in their order.

    Whole rows are one rectangle; of a row that is cut the same is done one axis further in, so that
    an array of n axes gives at most 2 n - 1.
    """
    if start >= end:
        return
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), end // row
    if first > last:  # inside one row
        yield from _in_row(last, shape, start, end)
        return
    yield from _in_row(first - 1, shape, start, first * row)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _in_row(last, shape, last * row, end)


def _in_row(number: int, shape: Sequence[int], start: int, end: int) -> Iterator[Box]:
    before = number * math.prod(shape[1:])
    for offset, size in boxes(shape[1:], start - before, end - before):
        yield (number, *offset), (1, *size)


def _pieces(
    entry: ShardedTensor | ShardedTensorFactory,
    weight: torch.Tensor,
    flat: torch.Tensor,
    start: int,
    prefix: str,
) -> Iterator[Piece]:
    """`flat`: the values of `weight`, or as many of its state, from its value `start` on."""
    for part in _parts(entry):
        begin = part.data.storage_offset() - weight.storage_offset()
        assert part.data.is_contiguous(), part.key
        assert weight.is_contiguous(), part.key
        ahead = part.prepend_axis_num
        low = max(start, begin)
        high = min(start + flat.numel(), begin + part.data.numel())
        for offset, size in boxes(part.local_shape, low - begin, high - begin):
            values = flat[low - start : low - start + math.prod(size)].view((1,) * ahead + size)
            low += math.prod(size)
            yield Piece(
                key=prefix + part.key,
                global_shape=tuple(part.global_shape),
                offset=(
                    *part.global_offset[:ahead],
                    *map(sum, zip(part.global_offset[ahead:], offset, strict=True)),
                ),
                values=values,
            )


def _parts(entry: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """A weight that is two in one, as SwiGLU's first, lies on disk in two places."""
    if isinstance(entry, ShardedTensor):
        return [entry]
    built = entry.build()
    parts = [built] if isinstance(built, ShardedTensor) else list(nested_values(built))
    assert sum(part.data.numel() for part in parts) == entry.data.numel(), entry.key
    return parts


def _is_first_copy(replica_id: Any) -> bool:
    """Whether this weight is the one that is saved, replicas of the whole model aside.

    Core's ids are (copy on another pipeline stage, tensor rank if it is not split, replica).
    """
    return not any(replica_id[:-1])
