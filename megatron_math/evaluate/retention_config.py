"""What `evaluate.retention` of a road holds."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section


class HeldOutText(Section):
    """Text that no training saw, of one kind."""

    path: Annotated[Path, LOCATION]
    """Records as everywhere (JSONL, .gz, parquet), or plain text, which blank lines divide (known
    to the stage by content)."""
    limit: Annotated[int, Field(ge=2)] = 500
    """Documents that are read, spread evenly over the file."""


class RetentionConfig(Section):
    """What a model is to know still when it has learned mathematics."""

    texts: dict[str, HeldOutText] = {}
    """By name: text whose loss is taken before and after."""
    sets: list[str] = []
    """Of the benchmarks that are asked, those that show what was known before, such as mmlu."""
    max_tokens: Annotated[int, Field(ge=2)] = 2048
    """Of a document, counted from its beginning."""

    @model_validator(mode="after")
    def _something(self) -> "RetentionConfig":
        if not self.texts and not self.sets:
            raise ValueError("give 'texts' or 'sets', or leave 'retention' out")
        return self
