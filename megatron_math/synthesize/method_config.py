"""The `synthesize` section for the methods that start from seeds: one class a method."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.engine.config import EngineConfig
from megatron_math.synthesize.verdicts.rule import AcceptRule

Share = Annotated[float, Field(ge=0, le=1)]


class AskedConfig(EngineConfig):
    """Who is asked, the budget, and how answers are drawn."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 2048
    """Longest answer, in tokens; one that reaches it is cut off and not used."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the probability that tokens are drawn from; nothing to a temperature of 0."""
    stop: list[str] = []
    """Strings that end an answer, for models that do not end it themselves."""


class PlaceConfig(Section):
    """Where records are: `path`, or a `file` that a stage of this road wrote."""

    path: Annotated[str | None, LOCATION] = None
    """A file or a glob pattern (.jsonl, .jsonl.gz, .parquet); known by content."""
    stage: str | None = None
    """A stage folder of this road; instead of `path`."""
    file: str | None = None
    """The file inside `stage`."""

    @model_validator(mode="after")
    def _one_place(self) -> "PlaceConfig":
        if (self.path is None) == (self.stage is None) or (self.stage is None) != (
            self.file is None
        ):
            raise ValueError("give either 'path', or 'stage' together with 'file'")
        return self


class SeedsConfig(PlaceConfig):
    """Where the problems are that a method begins with, and under which keys.

    A key may be a path such as `6b_finetuning.solution`. What is not given is looked for under
    the usual names: problem, question, input; solution, output; answer.
    """

    problem: str | None = None
    """Key of the problem."""
    solution: str | None = None
    """Key of a correct solution."""
    answer: str | None = None
    """Key of the reference answer; without one, what the solution states at its end."""
    attempts: list[str] = []
    """tutorship: keys of attempts, right or wrong, in the place of a student's."""
    remove: list[str] = []
    """Regular expressions; what they match is taken out of solutions and attempts."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Seeds whose solution has fewer counted steps are passed over."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Only so many of the first rows."""

    @field_validator("remove")
    @classmethod
    def _are_expressions(cls, remove: list[str]) -> list[str]:
        for expression in remove:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
        return remove


class AgreementConfig(Section):
    """Further solutions of a new problem, by the same engine, whose answers must be the same."""

    solutions: Annotated[int, Field(ge=1)] = 3
    """How many are asked for, in one request."""
    least: Annotated[int, Field(ge=1)] = 2
    """How many must have the candidate's answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Of these solutions alone."""

    @model_validator(mode="after")
    def _can_hold(self) -> "AgreementConfig":
        if self.least > self.solutions:
            raise ValueError(f"least {self.least} of {self.solutions} solutions cannot agree")
        if self.solutions > 1 and not self.temperature:
            raise ValueError("several solutions at temperature 0 are one; raise the temperature")
        return self


class SeededConfig(Section):
    """What all methods that begin with seeds share."""

    method: str
    language: Literal["en", "zh"] = "en"
    """Of the prompts, and so of what is written."""
    prompts: Annotated[Path | None, LOCATION] = None
    """A folder whose <method>.<part>.<language>.md take the place of the program's own."""
    accept: AcceptRule = AcceptRule()
    """Which verdicts make a record of a candidate."""
    audit: Annotated[int, Field(ge=0)] = 0
    """So many seeds' solutions are checked as they are, and with an error planted in them."""
    window: Annotated[int, Field(ge=1), LOCATION] = 4096
    """Seeds in work at a time. Their texts are in memory."""

    def engines(self) -> dict[str, AskedConfig]:
        """Those that are asked, by role."""
        found = {role: getattr(self, role, None) for role in ("engine", "teacher", "student")}
        return {role: config for role, config in found.items() if config is not None}

    def places(self) -> dict[str, PlaceConfig]:
        """The files that decide what is asked, by name."""
        raise NotImplementedError


class FromProblems(SeededConfig):
    """Methods whose seeds are problems."""

    seeds: SeedsConfig

    def places(self) -> dict[str, PlaceConfig]:
        return {"seeds": self.seeds}


class CheckedByModels(SeededConfig):
    """Methods whose candidates models may check, too."""

    agreement: AgreementConfig | None = None
    """Solve each new problem several times more; its verdict is 'agreement'."""
    teacher: AskedConfig | None = None
    """Reads each candidate and says correct or wrong; its verdict is 'teacher'."""


class ExpansionConfig(CheckedByModels, FromProblems):
    """Query expansion: a statement of the seed, two new problems with solutions, self-check."""

    method: Literal["expansion"]
    engine: AskedConfig
    accept: AcceptRule = AcceptRule(
        all=["self_check", "different", "agreement", "symbolic", "substitution", "teacher"]
    )


class DiversificationConfig(CheckedByModels, FromProblems):
    """Response diversification: two more solutions, correct and different."""

    method: Literal["diversification"]
    engine: AskedConfig
    most_alike: Share = 0.9
    """Solutions that share more than this share of their words in order are not different."""
    accept: AcceptRule = AcceptRule(
        all=["different", "reference", "agreement", "symbolic", "substitution", "teacher"]
    )


class RetrospectiveConfig(FromProblems):
    """Retrospective enhancement: a later step early, `[back]`, then the right step."""

    method: Literal["retrospective"]
    engine: AskedConfig | None = None
    """Writes the early step in its own words; without one the text of the later step is taken."""
    slips: Annotated[int, Field(ge=1)] = 1
    """Steps put early in each solution."""
    steps_needed: Annotated[int, Field(ge=2)] = 3
    """Pieces that a solution must have."""
    accept: AcceptRule = AcceptRule(all=["deletes_back", "symbolic"])

    @model_validator(mode="after")
    def _one_slip_by_a_model(self) -> "RetrospectiveConfig":
        if self.engine is not None and self.slips > 1:
            raise ValueError("with an engine there is one slip a solution; leave slips out")
        return self


class TutorshipConfig(FromProblems):
    """Tutorship amplification: a student tries, a teacher finds the wrong step and goes on."""

    method: Literal["tutorship"]
    teacher: AskedConfig
    student: AskedConfig | None = None
    """Who tries; without one attempts come with the seeds (seeds.attempts)."""
    attempts: Annotated[int, Field(ge=1)] = 1
    """Of the student at each problem."""
    teacher_sees_answer: bool = True
    """Whether the teacher is told the reference answer; a weak one judges better with it."""
    judged_correct: Share = 0.1
    """Share of the right attempts that become records ("Check: correct"); where a reference says
    that an attempt is right, the teacher is asked about this share only."""
    accept: AcceptRule = AcceptRule(all=["judgement", "reference", "symbolic", "substitution"])

    @model_validator(mode="after")
    def _someone_tries(self) -> "TutorshipConfig":
        if (self.student is None) == (not self.seeds.attempts):
            raise ValueError("give one of 'student' and 'seeds.attempts'")
        if self.student is None and self.attempts > 1:
            raise ValueError("attempts has no effect without a student")
        if self.student is not None and self.attempts > 1 and not self.student.temperature:
            raise ValueError("attempts at temperature 0 are one; raise student.temperature")
        return self


class RejectionConfig(FromProblems):
    """Rejection sampling: draw several solutions, check, deduplicate, keep the best."""

    method: Literal["rejection"]
    engine: AskedConfig
    samples: Annotated[int, Field(ge=1)] = 8
    """Solutions of each problem, in one request."""
    keep: Annotated[int, Field(ge=1)] = 1
    """Records of each problem, at most."""
    best: Literal["fewest_steps", "most_steps", "shortest", "first"] = "fewest_steps"
    """Which of the accepted ones are kept."""
    vote: Share = 0.5
    """Share of all samples that must have an answer for its verdict 'agreement' to be true."""
    teacher: AskedConfig | None = None
    """Reads each candidate and says correct or wrong; its verdict is 'teacher'."""
    accept: AcceptRule = AcceptRule(
        all=["reference", "symbolic", "substitution", "teacher"], any=["reference", "agreement"]
    )

    @model_validator(mode="after")
    def _draws(self) -> "RejectionConfig":
        if self.samples > 1 and not self.engine.temperature:
            raise ValueError("samples at temperature 0 are one; raise engine.temperature")
        return self
