"""What a low-rank adaptation is told, and how large it is. No torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.model.config import ModelConfig

LORA_FILE = "lora.json"
"""Lies in a checkpoint with adapters, beside model.json: the LoraConfig they were made with."""

Target = Literal["qkv", "proj", "fc1", "fc2"]
TARGETS: tuple[Target, ...] = ("qkv", "proj", "fc1", "fc2")


class LoraConfig(Section):
    """Train W + (alpha / rank) B A in place of W (Hu et al. 2021, section 4.1); W stays as it is.

    There is no dropout: its masks would make the result depend on the layout.
    """

    rank: int = Field(..., ge=1)
    """Rows of A and columns of B. A fused matrix (qkv, fc1) has one A for all its parts."""
    alpha: float = Field(..., gt=0)
    """The update is B A times alpha / rank."""
    targets: tuple[Target, ...] = Field(TARGETS, min_length=1)
    """Which linear maps of every layer: qkv (query, key, value), proj (attention's output), fc1
    (gate and up), fc2 (down)."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError("a target is named twice")
        return tuple(target for target in TARGETS if target in targets)  # one order, one identity

    def widths(self, model: ModelConfig) -> dict[Target, tuple[int, int]]:
        """(inputs, outputs) of every adapted map of one layer."""
        query = model.num_attention_heads * model.head_dim
        key_value = 2 * model.num_query_groups * model.head_dim
        each: dict[Target, tuple[int, int]] = {
            "qkv": (model.hidden_size, query + key_value),
            "proj": (query, model.hidden_size),
            "fc1": (model.hidden_size, 2 * model.ffn_hidden_size),
            "fc2": (model.ffn_hidden_size, model.hidden_size),
        }
        return {target: each[target] for target in self.targets}

    def num_parameters(self, model: ModelConfig) -> int:
        """Numbers that are trained."""
        layer = sum(self.rank * (rows + columns) for rows, columns in self.widths(model).values())
        return model.num_layers * layer

    def check(self, model: ModelConfig) -> None:
        """UserError for a rank above that of an adapted matrix, which would add nothing."""
        for target, widths in self.widths(model).items():
            if self.rank > min(widths):
                raise UserError(
                    f"train.lora.rank {self.rank} is more than the rank that {target} of this "
                    f"model can have ({min(widths)}); choose a smaller one"
                )


def checkpoint_lora(folder: Path) -> LoraConfig | None:
    """How the adapters in a checkpoint were made; None where it has none."""
    path = folder / LORA_FILE
    return LoraConfig.model_validate(read_json(path)) if path.is_file() else None
