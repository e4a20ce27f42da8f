"""What `curate.quality` holds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.curate.recall.config import ClassifierConfig
from megatron_math.curate.source_config import Count, Share, SourceConfig
from megatron_math.engine.config import EngineConfig


class LinearConfig(Section):
    """The classifier of `recall`; the score is the probability of being like the good ones."""

    good: SourceConfig
    bad: SourceConfig
    classifier: ClassifierConfig = ClassifierConfig()


class LossConfig(Section):
    """A causal language model reads the text; the score is minus its mean loss, in nats a token."""

    hf: Annotated[Path, LOCATION]
    """Its Hugging Face folder (known to the stage by content)."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    max_tokens: int = Field(2048, ge=2)
    """Longer texts are cut there."""
    batch_tokens: Annotated[int, LOCATION] = Field(16384, ge=1)
    """Tokens of one forward pass, padding included."""


class QuestionConfig(Section):
    """A model is asked for a yes or a no; the score is the probability that it gives to yes."""

    engine: EngineConfig
    prompt: Annotated[Path | None, LOCATION] = None
    """A jinja2 template with {{ text }} (known to the stage by content); left out: whether one
    learns mathematics from the text."""
    max_characters: int = Field(4000, ge=1)
    """Longer texts are cut there."""


class QualityConfig(Section):
    """Scores go into `meta.quality`: one of `linear`, `loss` and `question` gives them."""

    linear: LinearConfig | None = None
    loss: LossConfig | None = None
    question: QuestionConfig | None = None
    least: float | None = None
    """Records with a lower score are dropped, and those that could not be scored."""
    most: float | None = None
    """Records with a higher one, too: of loss, texts that say the same again and again."""
    keep: Count | Share | dict[str, Count | Share] | None = None
    """Of each source the best so many records (200), or so large a part of them (0.1), of those
    that are left; by source, the others stay."""

    @model_validator(mode="after")
    def _one_scorer(self) -> "QualityConfig":
        if sum(one is not None for one in (self.linear, self.loss, self.question)) != 1:
            raise ValueError("give one of 'linear', 'loss' and 'question'")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError("'least' is above 'most', so no record would stay")
        return self

    def kept(self, source: str) -> int | float | None:
        """How many records of a source, or which part of them, is kept; None: all."""
        return self.keep.get(source) if isinstance(self.keep, dict) else self.keep
