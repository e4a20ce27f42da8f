"""What the `curate` section of a road holds."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

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


Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]


class InfluenceConfig(Section):
    """Keep the records whose gradients point where those of target problems do (docs/influence.md).

    The gradients are those of the adapters of a warm-up road, at each of its checkpoints.
    """

    run: Annotated[Path, LOCATION]
    """The warm-up road's run folder, relative to this one's; it was trained with train.lora."""
    targets: dict[str, SourceConfig] = Field(min_length=1)
    """Subtasks, each with records like those that the trained model is to be good at: tens of
    them are enough, and none may be a benchmark's test row."""
    keep: Count | Share | dict[str, Count | Share]
    """Of each source the best so many records (200), or so large a part of them (0.1); by source,
    those that are not named stay whole."""
    checkpoints: list[int] | None = Field(None, min_length=1)
    """Iterations of the warm-up that count; left out: every checkpoint that it kept."""
    dimension: int | None = Field(8192, ge=64)
    """Numbers that a gradient is projected to, a power of two; null: whole gradients, for a model
    of toy size. The error of a score falls as one over its square root."""
    loss: Literal["all", "solution"] = "all"
    """Tokens whose loss makes the gradient; solution: of problems, only those of the solution."""
    max_tokens: int = Field(2048, ge=2)
    """Longer records are cut there."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights and activations while gradients are made; adapters' gradients are summed in fp32
    in both."""
    batch_tokens: Annotated[int, LOCATION] = Field(16384, ge=1)
    """Tokens of one forward and backward pass, padding included."""
    block_records: Annotated[int, LOCATION] = Field(1024, ge=1)
    """Records of one file of gradients, which is what a kill costs at most."""

    def kept(self, source: str, num_records: int) -> int | None:
        """How many records of a source are kept; None: all, unscored."""
        keep = self.keep.get(source) if isinstance(self.keep, dict) else self.keep
        if keep is None:
            return None
        if isinstance(keep, float):
            return max(1, round(keep * num_records))
        return min(keep, num_records)

    @field_validator("dimension")
    @classmethod
    def _power_of_two(cls, dimension: int | None) -> int | None:
        if dimension is not None and dimension & (dimension - 1):
            raise ValueError("choose a power of two, such as 4096 or 8192")
        return dimension


class CurateConfig(Section):
    """What is read, and what must not stay in it."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Sources in the order in which they are read: of equal texts the first one stays."""
    dedup: Literal["exact", "none"] = "exact"
    """exact: a text that came before, spacing and case aside, is dropped, in any source."""
    decontaminate: DecontaminateConfig | None = None
    """Left out: nothing is looked for, and the stats say so."""
    influence: InfluenceConfig | None = None
    """Of what is left, keep the records that help with target problems; left out: keep them all."""

    def identity(self) -> dict[str, Any]:
        """The order of the sources decides which of two equal texts stays."""
        identity = super().identity() | {"order": list(self.sources)}
        if self.influence is None:  # as before it was known
            del identity["influence"]
        return identity

    @model_validator(mode="after")
    def _known_sources(self) -> "CurateConfig":
        keep = self.influence.keep if self.influence is not None else None
        unknown = sorted(set(keep) - set(self.sources)) if isinstance(keep, dict) else []
        if unknown:
            raise ValueError(
                f"influence.keep names {', '.join(unknown)}, and sources are "
                f"{', '.join(self.sources)}"
            )
        return self
