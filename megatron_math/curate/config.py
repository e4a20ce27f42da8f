"""What the `curate` section of a road holds."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.benchmarks.load import benchmark_names
from megatron_math.curate.decontaminate import DEFAULT_RULES, Rule
from megatron_math.curate.filters_config import FiltersConfig
from megatron_math.curate.labels.config import LabelsConfig
from megatron_math.curate.quality.config import QualityConfig
from megatron_math.curate.recall.config import RecallConfig
from megatron_math.curate.source_config import Count, Share, SourceConfig, how_many


class SearchedBenchmark(Section):
    """A benchmark whose problems are looked for in the training text."""

    name: str
    """A benchmark that comes with the program, or the path of a YAML file."""
    rows: Annotated[Path | None, LOCATION] = None
    """The file of its rows, where it is not below `data` (known to the stage by content)."""
    stage: str | None = None
    """A stage of this road that wrote the rows, such as 10_synthesize; instead of `rows`."""
    rules: Annotated[list[Rule] | None, Field(min_length=1)] = None
    """Instead of those of `decontaminate`; [exact] for problems written by templates."""
    rule: Rule | None = None
    """The same for one rule."""

    @model_validator(mode="after")
    def _one_place(self) -> "SearchedBenchmark":
        if self.rows is not None and self.stage is not None:
            raise ValueError("give the rows by 'rows' or by 'stage', not both")
        _one_of_both(self)
        return self


class DecontaminateConfig(Section):
    """Which benchmarks are looked for, and how."""

    benchmarks: Literal["all"] | list[str | SearchedBenchmark] = Field(min_length=1)
    """Names, paths of YAML files, or objects; `all`, alone or in the list: every benchmark that
    comes with the program, has its rows in the data folder and is not named otherwise
    (heldout_templates where the road has synthesize). A benchmark that is named must be there."""
    rules: Annotated[list[Rule] | None, Field(min_length=1)] = None
    """What counts as a leak; left out: ngram10, ngram13 and numbers. ngram10: any ten words in a
    row; ngram13: thirteen words in a row and more than 0.6 of the problem's words in its order;
    numbers: the problem with other numbers; exact: the whole problem, punctuation included."""
    rule: Rule | None = None
    """The same for one rule."""
    data: Annotated[Path | None, LOCATION] = None
    """Folder below which the benchmarks' rows are."""
    allow: Annotated[Path | None, LOCATION] = None
    """Hits that were read and may pass: JSON lines with `reason`, `benchmark` and `row`, or
    `source` and `record` (known to the stage by content)."""

    @model_validator(mode="after")
    def _one_way(self) -> "DecontaminateConfig":
        _one_of_both(self)
        return self

    def choices(self, *, has_synthesize: bool) -> list[SearchedBenchmark]:
        """Every benchmark with its rules filled in."""
        asked = ["all"] if self.benchmarks == "all" else list(self.benchmarks)
        named = [SearchedBenchmark(name=b) if isinstance(b, str) else b for b in asked]
        chosen = [b for b in named if b.name != "all"]
        if len(chosen) < len(named):
            known = {b.name for b in chosen}
            for name in benchmark_names():
                if name in known or (name in WRITTEN_BY_SYNTHESIZE and not has_synthesize):
                    continue
                made = {"stage": "10_synthesize", "rules": ["exact"]}
                extra = made if name in WRITTEN_BY_SYNTHESIZE else {}
                chosen.append(SearchedBenchmark.model_validate({"name": name} | extra))
        own = _rules_of(self) or list(DEFAULT_RULES)
        return [
            b.model_copy(update={"rule": None, "rules": list(dict.fromkeys(_rules_of(b) or own))})
            for b in chosen
        ]

    def meant_by_all(self) -> list[str]:
        """The benchmarks that `all` adds to those that are named, with rows at hand or not."""
        asked = ["all"] if self.benchmarks == "all" else list(self.benchmarks)
        named = {b if isinstance(b, str) else b.name for b in asked}
        known = set(WRITTEN_BY_SYNTHESIZE) | named
        return [name for name in benchmark_names() if name not in known] if "all" in named else []


WRITTEN_BY_SYNTHESIZE = ("heldout_templates",)
"""Benchmarks whose rows are those that a road's own synthesize holds out."""


def _rules_of(section: SearchedBenchmark | DecontaminateConfig) -> list[Rule] | None:
    return section.rules if section.rule is None else [section.rule]


def _one_of_both(section: SearchedBenchmark | DecontaminateConfig) -> None:
    if section.rule is not None and section.rules is not None:
        raise ValueError("give 'rules' or 'rule', not both")


class NearDuplicatesConfig(Section):
    """Drop texts that are nearly the same as one that stays."""

    threshold: float = Field(0.8, gt=0, le=1)
    """Jaccard index of the sets of runs of words from which on two texts count as one; every pair
    that MinHash proposes is compared by its sets."""
    shingle_words: int = Field(5, ge=1, le=64)
    """Words of a run."""


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
        return how_many(keep, num_records)

    @field_validator("dimension")
    @classmethod
    def _power_of_two(cls, dimension: int | None) -> int | None:
        if dimension is not None and dimension & (dimension - 1):
            raise ValueError("choose a power of two, such as 4096 or 8192")
        return dimension


NEWER = ("same_url", "near_duplicates", "influence", "recall", "filters", "labels", "quality")
"""Keys that came later: with their default the stage is what it was before they were known."""


class CurateConfig(Section):
    """What is read, and what must not stay in it."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Sources in the order in which they are read: of equal texts the first one stays."""
    recall: RecallConfig | None = None
    """Left out: all pages are read; else those that are like a seed."""
    filters: FiltersConfig | None = None
    """Left out: none; {} drops texts that are broken, by every rule but the language's."""
    dedup: Literal["exact", "none"] = "exact"
    """exact: a text that came before, spacing and case aside, is dropped, in any source."""
    same_url: Literal["keep", "drop"] = "keep"
    """drop: of records with the same address in `meta.url` the first one stays."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Left out: nearly equal texts stay; {} drops them at the usual threshold."""
    decontaminate: DecontaminateConfig | None = None
    """Left out: nothing is looked for, and the stats say so."""
    labels: LabelsConfig | None = None
    """Difficulty, topic and school stage of what is left; left out: no labels."""
    quality: QualityConfig | None = None
    """Scores of what is left by a small model; left out: no scores."""
    influence: InfluenceConfig | None = None
    """Of what is left, keep the records that help with target problems; left out: keep them all."""

    def identity(self) -> dict[str, Any]:
        """The order of the sources decides which of two equal texts stays."""
        identity = super().identity() | {"order": list(self.sources)}
        for name in NEWER:
            if getattr(self, name) == type(self).model_fields[name].default:
                del identity[name]
        return identity

    @model_validator(mode="after")
    def _known_sources(self) -> "CurateConfig":
        keep = self.influence.keep if self.influence is not None else None
        pool = self.recall.pool if self.recall is not None else None
        best = self.quality.keep if self.quality is not None else None
        given = (("influence.keep", keep), ("recall.pool", pool), ("quality.keep", best))
        for where, named in given:
            names = named if isinstance(named, dict | list) else ()
            if unknown := sorted(set(names) - set(self.sources)):
                raise ValueError(
                    f"{where} names {', '.join(unknown)}, and sources are {', '.join(self.sources)}"
                )
        return self
