"""What `curate.labels` holds."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.engine.config import EngineConfig

LabelName = Literal["difficulty", "topic", "stage"]
LABELS: tuple[LabelName, ...] = get_args(LabelName)
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)


class DifficultyConfig(Section):
    """Easy, medium or hard, of problems; plain texts have no such label."""

    by: Literal["steps", "success"] = "steps"
    """steps: reasoning steps that the solution derives something in (`meta.steps`, or counted);
    success: how often a model solved it."""
    medium_from: int | None = Field(None, ge=1)
    """Steps; left out: 3."""
    hard_from: int | None = Field(None, ge=1)
    """Steps; left out: 6, as MathGPT-8B takes problems of more than five."""
    easy_from: float | None = Field(None, gt=0, le=1)
    """Rate of success; left out: 0.75."""
    hard_below: float | None = Field(None, gt=0, le=1)
    """Rate of success; left out: 0.25."""
    predictions: Annotated[list[Path] | None, Field(min_length=1), LOCATION] = None
    """Files like 70_evaluate/<who>/<benchmark>/predictions.jsonl, with `id` and `correct`, as many
    as there are (known to the stage by content). Left out: `meta.right_of`, which the rejection
    method of synthesize writes."""

    @model_validator(mode="after")
    def _own_keys(self) -> "DifficultyConfig":
        steps = {"medium_from": self.medium_from, "hard_from": self.hard_from}
        rates = {
            "easy_from": self.easy_from,
            "hard_below": self.hard_below,
            "predictions": self.predictions,
        }
        for name, value in (rates if self.by == "steps" else steps).items():
            if value is not None:
                raise ValueError(f"{name} has no effect with 'by: {self.by}'; leave it out")
        if not self.steps[0] < self.steps[1] or not self.rates[1] <= self.rates[0]:
            raise ValueError("hard problems must be those beyond the medium ones")
        return self

    @property
    def steps(self) -> tuple[int, int]:
        """(steps from which a problem is medium, from which it is hard)."""
        return self.medium_from or 3, self.hard_from or 6

    @property
    def rates(self) -> tuple[float, float]:
        """(rate from which a problem is easy, below which it is hard)."""
        return self.easy_from or 0.75, self.hard_below or 0.25


class NamedConfig(Section):
    """A label out of a table: by the keywords in the text, or in a model's words."""

    table: Annotated[Path | None, LOCATION] = None
    """YAML like labels/topic.yaml (known to the stage by content); left out: the program's own."""
    engine: EngineConfig | None = None
    """A model that chooses one of the table's labels, in place of the keywords."""


class LabelsConfig(Section):
    """Labels go into `meta.labels` and are counted in stats.json."""

    difficulty: DifficultyConfig | None = None
    topic: NamedConfig | None = None
    """arithmetic, algebra, geometry, ..."""
    stage: NamedConfig | None = None
    """grade, middle, high or college."""
    keep: dict[LabelName, list[str]] = {}
    """Records stay only where a label is one of these: {difficulty: [medium, hard]}."""

    @model_validator(mode="after")
    def _is_labelled(self) -> "LabelsConfig":
        asked = [name for name in LABELS if getattr(self, name) is not None]
        if not asked:
            raise ValueError(f"name at least one of {', '.join(LABELS)}, such as difficulty: {{}}")
        for name, wanted in self.keep.items():
            if name not in asked:
                raise ValueError(f"keep names {name}, which is not asked for; add {name}: {{}}")
            if not wanted:
                raise ValueError(f"keep.{name} is empty, so no record would stay")
        unknown = set(self.keep.get("difficulty", [])) - set(DIFFICULTIES)
        if unknown:
            raise ValueError(
                f"keep.difficulty is of {', '.join(DIFFICULTIES)}; found {', '.join(unknown)}"
            )
        return self
