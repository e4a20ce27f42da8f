"""What the `evaluate` section of a road holds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section

Who = Literal["before", "after"]


class ChosenBenchmark(Section):
    """A benchmark to score, with what differs from its own YAML."""

    name: str
    """A benchmark that comes with the program, or the path of a YAML file."""
    rows: Annotated[Path | None, LOCATION] = None
    """The file of its rows, where it is not below `data` (known to the stage by content)."""
    stage: str | None = None
    """A stage of this road that wrote the rows, such as 10_synthesize; instead of `rows`."""
    shots: Annotated[int | None, Field(ge=0)] = None
    """Solved examples before the question."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Ask the first `limit` rows only; the scores say so."""
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    """Tokens an answer may have."""

    @model_validator(mode="after")
    def _one_place(self) -> "ChosenBenchmark":
        if self.rows is not None and self.stage is not None:
            raise ValueError("give the rows by 'rows' or by 'stage', not both")
        return self


class EvaluateConfig(Section):
    """Which models are asked what."""

    benchmarks: list[str | ChosenBenchmark] = Field(min_length=1)
    """Names, or mappings with name, rows, shots, limit, max_new_tokens."""
    data: Annotated[Path | None, LOCATION] = None
    """Folder below which the benchmarks' rows are."""
    who: Annotated[list[Who], Field(min_length=1)] = ["before", "after"]
    """before: 00_base/hf; after: 60_export/hf."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights and arithmetic; in bf16 an answer may depend on who shares the batch."""
    batch_size: Annotated[int, Field(ge=1), LOCATION] = 128
    """Prompts that are continued together."""
    graders: Annotated[int, Field(ge=1), LOCATION] = 1
    """Processes that judge answers which need algebra."""

    @field_validator("benchmarks")
    @classmethod
    def _once_each(cls, benchmarks: list[str | ChosenBenchmark]) -> list[str | ChosenBenchmark]:
        names = [b if isinstance(b, str) else b.name for b in benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is chosen twice; choose each benchmark once")
        return benchmarks

    def choices(self) -> list[ChosenBenchmark]:
        return [ChosenBenchmark(name=b) if isinstance(b, str) else b for b in self.benchmarks]
