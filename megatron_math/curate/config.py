"""What the `curate` section of a road holds."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.curate.decontaminate import Rule


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


class SearchedBenchmark(Section):
    """A benchmark whose problems are looked for in the training text."""

    name: str
    """A benchmark that comes with the program, or the path of a YAML file."""
    rows: Annotated[Path | None, LOCATION] = None
    """The file of its rows, where it is not below `data` (known to the stage by content)."""
    stage: str | None = None
    """A stage of this road that wrote the rows, such as 10_synthesize; instead of `rows`."""
    rule: Rule | None = None
    """Overrides the rule of `decontaminate`; `exact` for problems written by templates."""

    @model_validator(mode="after")
    def _one_place(self) -> "SearchedBenchmark":
        if self.rows is not None and self.stage is not None:
            raise ValueError("give the rows by 'rows' or by 'stage', not both")
        return self


class DecontaminateConfig(Section):
    """Which benchmarks are looked for, and how."""

    benchmarks: list[str | SearchedBenchmark] = Field(min_length=1)
    rule: Rule = "ngram10"
    """ngram10: any ten words in a row; exact: the whole problem."""
    data: Annotated[Path | None, LOCATION] = None
    """Folder below which the benchmarks' rows are."""

    def choices(self) -> list[SearchedBenchmark]:
        """Every benchmark with its rule filled in."""
        full = [SearchedBenchmark(name=b) if isinstance(b, str) else b for b in self.benchmarks]
        return [b.model_copy(update={"rule": b.rule or self.rule}) for b in full]


class CurateConfig(Section):
    """What is read, and what must not stay in it."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Sources in the order in which they are read: of equal texts the first one stays."""
    dedup: Literal["exact", "none"] = "exact"
    """exact: a text that came before, spacing and case aside, is dropped, in any source."""
    decontaminate: DecontaminateConfig | None = None
    """Left out: nothing is looked for, and the stats say so."""

    def identity(self) -> dict[str, Any]:
        """The order of the sources decides which of two equal texts stays."""
        return super().identity() | {"order": list(self.sources)}
