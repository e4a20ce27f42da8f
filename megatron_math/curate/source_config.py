"""Where the room's records are, and how many of them are meant."""

from typing import Annotated

from pydantic import Field, model_validator

from megatron_math.base.config import Section

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]


class SourceConfig(Section):
    """Where a source's records are: `path`, or a `file` that a stage of this road wrote."""

    path: str | list[str] | None = None
    """A file, a glob pattern, or a list of them (.jsonl, .jsonl.gz, .parquet)."""
    stage: str | None = None
    """A stage folder of this road, such as 10_synthesize."""
    file: str | None = None
    """The file inside `stage`, such as problems.jsonl."""

    @model_validator(mode="after")
    def _one_place(self) -> "SourceConfig":
        if (self.path is None) == (self.stage is None) or (self.stage is None) != (
            self.file is None
        ):
            raise ValueError("give either 'path', or 'stage' together with 'file'")
        return self


def how_many(keep: int | float, num_records: int) -> int:
    """A share (a float) or a number of records, of so many; at least one, where there are any."""
    if isinstance(keep, float):
        return min(num_records, max(1, round(keep * num_records)))
    return min(keep, num_records)
