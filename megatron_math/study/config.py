"""What a study's YAML holds, beside the sections of its roads."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import Section
from megatron_math.base.road import SECTIONS
from megatron_math.blend.config import Tokens

ARM_KEYS = ("description", "after", "budget", "made_by")
"""Of an arm, beside sections of a road."""
DEFAULT_BUDGET = "all arms"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*$")]


class AvailableConfig(Section):
    """How much different data the arms may have of a source, or of a group of the mix."""

    tokens: Tokens | None = None
    """Of the indexes, documents held out for validation included."""
    documents: Annotated[int, Field(ge=1)] | None = None
    """Texts or problems: for arms that are to have equal items."""
    within: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The share by which an arm may be off; left out: one sequence of tokens, no document."""

    @model_validator(mode="after")
    def _one_count(self) -> "AvailableConfig":
        if (self.tokens is None) == (self.documents is None):
            raise ValueError("give either `tokens` or `documents`")
        return self


class BudgetConfig(Section):
    """What every arm of a budget trains on, within one sequence."""

    tokens: Tokens
    """Tokens that the arm's own training processes, padding left out."""
    available: dict[str, AvailableConfig] = {}
    """By source or group of the mix."""


class CompareConfig(Section):
    """A question with a sign: an arm against a baseline, or any weighted sum of arms."""

    arm: str | None = None
    baseline: str | None = None
    weights: dict[str, float] | None = None
    """In the place of arm and baseline: {arm: 1, other: -1, ...}, whose sum is 0."""
    metrics: list[str] | None = None
    """Metrics; left out: all of the study's."""
    expect: Literal["above", "below", "no difference"] = "above"
    claim: str = ""
    """In words, for the table."""

    @model_validator(mode="after")
    def _one_way(self) -> "CompareConfig":
        given = [name for name in (self.arm, self.baseline) if name is not None]
        if len(given) != (2 if self.weights is None else 0):
            raise ValueError("give `arm` and `baseline`, or `weights`")
        if self.weights is not None and abs(sum(self.weights.values())) > 1e-9:
            raise ValueError("the weights of a comparison add up to 0")
        return self

    def combination(self) -> dict[str, float]:
        """Arm -> its weight in the difference."""
        if self.weights is not None:
            return dict(self.weights)
        assert self.arm is not None, self
        assert self.baseline is not None, self
        return {self.arm: 1.0, self.baseline: -1.0}

    def title(self) -> str:
        if self.weights is None:
            return f"{self.arm} - {self.baseline}"
        parts = [f"{'+' if w > 0 else '-'} {abs(w):g} {a}" for a, w in self.weights.items()]
        return " ".join(parts).removeprefix("+ ").replace(" 1 ", " ").removeprefix("1 ")


class GainConfig(Section):
    """Net gains over a control, and the one as a share of the other (papers' RQ3)."""

    arm: str
    reference: str
    control: str
    metrics: list[str] | None = None
    """Metrics; left out: all of the study's."""
    claim: str = ""


class StudyConfig(Section):
    """Arms x seeds. `shared`, `road` and `arms` hold sections of roads as they are."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 1234
    """Of the shared roads, and of resampling."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Every arm is made once with each."""
    shared: dict[Name, dict[str, Any]] = {}
    """Roads that are made once, before the arms, in their order: a base, indexes."""
    road: dict[str, Any] = {}
    """Beneath every arm's sections."""
    arms: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Sections that differ, merged key by key (null takes a key away), and description, `after`
    (the arm whose export this one begins with), `budget` (which, where there are several) or
    `made_by` (STUDY/ARM of a study that was run before, whose scores are read)."""
    budget: BudgetConfig | None = None
    budgets: dict[str, BudgetConfig] = {}
    """In place of `budget`: several, by name; every arm says which is its own."""
    compare: list[CompareConfig] = []
    gains: list[GainConfig] = []
    metrics: list[str] = []
    """`heldout`, `heldout[level=1]`, `average` (of the benchmarks), `validation loss[source]`;
    left out: all that there are. The first is what comparisons are about by default."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200)] = 4000

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("every seed counts once")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if (self.budget is None) == (not self.budgets):
            raise ValueError("give `budget`, or several under `budgets`")
        for place, sections in (("shared", self.shared), ("arms", self.arms)):
            for name, own in sections.items():
                self._check_keys(f"{place}.{name}", own, ARM_KEYS if place == "arms" else ())
        self._check_keys("road", self.road, ())
        for name in self.shared:
            if re.fullmatch(r".+-s\d+", name):
                raise ValueError(f"shared.{name}: names that end with -s and digits are of arms")
        for name, own in self.arms.items():
            self._check_arm(name, own)
        named = [arm for c in self.compare for arm in c.combination()]
        named += [arm for g in self.gains for arm in (g.arm, g.reference, g.control)]
        for arm in named:
            if arm not in self.arms:
                raise ValueError(f"there is no arm '{arm}'; arms are {', '.join(self.arms)}")
        return self

    @staticmethod
    def _check_keys(where: str, own: dict[str, Any], more: tuple[str, ...]) -> None:
        for key in own:
            if key in ("name", "seed") or key not in (*SECTIONS, *more):
                raise ValueError(f"{where}: unknown key '{key}'")

    def _check_arm(self, name: str, arm: dict[str, Any]) -> None:
        where = f"arms.{name}"
        if "made_by" in arm:
            if set(arm) - {"made_by", "description"}:
                raise ValueError(f"{where}: an arm that another study made has nothing of its own")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(arm["made_by"])):
                raise ValueError(f"{where}.made_by is STUDY/ARM, found {arm['made_by']!r}")
            return
        if arm.get("after") is not None:
            if arm["after"] not in self.arms or arm["after"] == name:
                raise ValueError(f"{where}.after: there is no other arm {arm['after']!r}")
            if "base" in arm:
                raise ValueError(f"{where}: `after` says what it begins with; leave `base` out")
        if self.budgets and arm.get("budget") not in self.budgets:
            raise ValueError(f"{where}.budget is one of {', '.join(self.budgets)}")
        if not self.budgets and "budget" in arm:
            raise ValueError(f"{where}.budget has no effect: the study has one budget")

    def budget_of(self, arm: str) -> tuple[str, BudgetConfig]:
        """Name and content of an arm's budget."""
        if self.budget is not None:
            return DEFAULT_BUDGET, self.budget
        name = self.arms[arm]["budget"]
        return name, self.budgets[name]
