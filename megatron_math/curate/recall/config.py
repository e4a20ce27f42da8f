"""What `curate.recall` holds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.curate.source_config import Count, Share, SourceConfig


class ClassifierConfig(Section):
    """A linear classifier over hashed runs of words; fastText's settings in DeepSeekMath are 3
    words, min_count 3, 3 epochs, 500,000 texts a class."""

    texts: Count = 500_000
    """Texts of each class that are learned from, drawn at random where there are more."""
    longest_run: Annotated[int, Field(ge=1, le=8)] = 3
    """Words of the longest run that is a feature; shorter runs are features, too."""
    bits: Annotated[int, Field(ge=10, le=28)] = 22
    """Features are hashed to 2 ** bits numbers, of 4 bytes each."""
    min_count: Annotated[int, Field(ge=1, le=1000)] = 3
    """Features of fewer training texts weigh nothing."""
    epochs: Annotated[int, Field(ge=1)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    """Of AdaGrad, so not comparable with fastText's."""


class DomainRuleConfig(Section):
    """Where the seed may grow: pages of domains of which many pages were collected."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """A domain counts where more than this part of its pages in the pool was collected."""
    pages: Annotated[int, Field(ge=1)] = 10
    """Domains with fewer pages in the pool never count."""
    paths: Annotated[Path | None, LOCATION] = None
    """Which pages of a domain that counts may join: JSON lines with `domain` and `path`, the path's
    beginning, written by people who read round_<n>/domains.jsonl (known to the stage by content).
    Left out: pages whose path begins like those of which more than `share` was collected."""


class RecallConfig(Section):
    """Of a pool of pages keep those that are like a seed, as DeepSeekMath's loop finds them: learn
    seed from the rest, take the best, let the seed grow by their domains, again (docs/curate.md).
    """

    pool: Annotated[list[str] | None, Field(min_length=1)] = None
    """Names of the sources that are the pool; left out: all of them. The others stay whole."""
    seed: SourceConfig
    """Pages that are known to be what is looked for."""
    general: SourceConfig | None = None
    """Pages that are not; left out: random pages of the pool that were not collected yet."""
    take: Count | Share | None = None
    """Of the pool's pages a round takes the best so many (200000), or so large a part (0.01)."""
    words: Count | None = None
    """In its place: the best ones with so many words together."""
    rounds: int = Field(4, ge=1, le=100)
    """At most."""
    overlap: float = Field(0.98, gt=0, le=1)
    """The loop ends when so large a part of what a round takes was taken before."""
    domains: DomainRuleConfig | None = DomainRuleConfig()
    """null: the seed never grows, and there is one round."""
    classifier: ClassifierConfig = ClassifierConfig()
    workers: Annotated[int, Field(ge=1), LOCATION] = 1
    """Processes that score files of the pool at the same time; each holds the classifier's weights.
    """
    left_out: Literal["records", "scores"] = "records"
    """What drops/ keeps of a page that was not taken: the record, or its id, address and score."""

    @model_validator(mode="after")
    def _one_budget(self) -> "RecallConfig":
        if (self.take is None) == (self.words is None):
            raise ValueError("give one of 'take' (pages) and 'words'")
        return self
