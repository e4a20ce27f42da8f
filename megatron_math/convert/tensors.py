"""How Hugging Face tensors become one Megatron-Core parameter, and back. Pure functions of tensors.

Core's `linear_qkv` keeps, for every query group, the rows of its query heads, then its key head,
then its value head, so that a tensor-parallel cut gives each rank whole groups. `linear_fc1` is
gate above up. The vocabulary gets zero rows up to a multiple; they are dropped on the way back.

Shapes: G query groups, Q query heads of a group, D head size, H hidden size.
"""

import torch

from megatron_math.convert.names import Row
from megatron_math.model.config import ModelConfig


def join(row: Row, config: ModelConfig, parts: list[torch.Tensor]) -> torch.Tensor:
    """The core parameter made of the row's Hugging Face tensors (same dtype, exact)."""
    if row.kind == "copy":
        return parts[0]
    if row.kind == "vocabulary":
        padding = config.padded_vocab_size - config.vocab_size
        return torch.cat([parts[0], parts[0].new_zeros(padding, config.hidden_size)])
    if row.kind == "gate_up":
        return torch.cat(parts)
    groups, tail = config.num_query_groups, parts[0].shape[1:]
    grouped_GxDH = [part.reshape(groups, -1, *tail) for part in parts]
    return torch.cat(grouped_GxDH, dim=1).reshape(-1, *tail)


def split(row: Row, config: ModelConfig, parameter: torch.Tensor) -> list[torch.Tensor]:
    """The row's Hugging Face tensors, contiguous; the inverse of `join`."""
    if row.kind == "copy":
        parts: list[torch.Tensor] = [parameter]
    elif row.kind == "vocabulary":
        parts = [parameter[: config.vocab_size]]
    elif row.kind == "gate_up":
        parts = list(parameter.split(config.ffn_hidden_size))
    else:
        groups, dim, tail = config.num_query_groups, config.head_dim, parameter.shape[1:]
        heads = config.num_attention_heads // groups
        grouped_GxDH = parameter.reshape(groups, (heads + 2) * dim, *tail)
        cut = grouped_GxDH.split([heads * dim, dim, dim], dim=1)
        parts = [part.reshape(-1, *tail) for part in cut]
    return [part.contiguous() for part in parts]
