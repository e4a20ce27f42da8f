"""What the `curate` section of a road holds."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from megatron_math.base.config import Section
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
    """A benchmark to look for."""

    name: str
    rows: Path | None = None
    """The file of its rows, where the benchmark's own YAML does not say or says otherwise."""
    rule: Rule | None = None
    """Overrides the rule of `decontaminate`; `exact` for problems written by templates."""


class DecontaminateConfig(Section):
    """Which benchmarks are looked for, and how."""

    benchmarks: list[str | SearchedBenchmark] = Field(min_length=1)
    rule: Rule = "ngram10"
    fields: Literal["problem", "problem+solution"] = "problem"
    """What of a benchmark row is looked for. Training records are always searched whole."""
    data: Path | None = None
    """Folder of the benchmarks' rows."""

    def choices(self) -> list[SearchedBenchmark]:
        """Every benchmark with its rule filled in."""
        full = [SearchedBenchmark(name=b) if isinstance(b, str) else b for b in self.benchmarks]
        return [b.model_copy(update={"rule": b.rule or self.rule}) for b in full]


class CurateConfig(Section):
    """Sources in the order in which they are read: of equal texts the first one stays."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    dedup: Literal["exact", "none"] = "exact"
    decontaminate: DecontaminateConfig | None = None
