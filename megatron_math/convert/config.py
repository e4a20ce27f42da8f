"""What the convert room reads of a road: `base`, `model` and `convert`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section


class BaseConfig(Section):
    """Where the road's first weights come from: exactly one of three.

    Paths stay out of the fingerprint: what they hold is in it."""

    hf: Annotated[Path | None, LOCATION] = None
    """A Hugging Face folder: config.json, safetensors, tokenizer files."""
    preset: str | None = None
    """Fresh weights of this preset (`model/presets`), drawn from the road's seed."""
    run: Annotated[Path | None, LOCATION] = None
    """Another road's folder, relative to this road's own; its finished 60_export is taken."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [name for name in ("hf", "preset", "run") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(
                "give exactly one of hf (a folder), preset (a name) and run (a road); "
                f"found {found}"
            )
        return self


class ConvertConfig(Section):
    """How conversions are made and proven."""

    iteration: int | None = Field(default=None, gt=0)
    """Export this checkpoint of 50_train; default: the newest one."""
    receipt_dtype: Literal["fp32", "weights"] = "fp32"
    """Number type in which both models compute the logits to compare. fp32 is exact about the
    weights whatever their type and needs 4 bytes a parameter of memory; `weights` takes theirs."""
    max_shard_bytes: Annotated[int, LOCATION] = Field(default=5_000_000_000, gt=0)
    """Largest safetensors file; one tensor may exceed it."""
