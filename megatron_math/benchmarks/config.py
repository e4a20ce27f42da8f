"""What a benchmark's YAML says."""

import re
import string
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import Section

AnswerRule = Literal["boxed", "stated", "last number"]


class ProblemMapping(Section):
    """The problem's text: these fields of a row, joined."""

    fields: Annotated[list[str], Field(min_length=1)]
    join: str = " "
    close_sentences: bool = False
    """End every field with a full stop where it has no closing mark."""


class ReferenceMapping(Section):
    """The reference answer: one field, or the part of it that a pattern finds."""

    field: str
    pattern: str | None = None
    """A regular expression; its only group is the answer."""


class Example(Section):
    """One worked example of a few-shot prompt. Never a row of the benchmark itself."""

    problem: str
    solution: str


class BenchmarkConfig(Section):
    """One benchmark. Keys with dots reach into objects: `meta.level`."""

    name: str
    version: int
    """Counts up with every change that can move a score."""
    rows: str
    """The rows' file below the data folder, JSONL."""
    expected_rows: int | None = None
    problem: ProblemMapping
    reference: ReferenceMapping
    id: str | None = None
    """The field with a row's id; without it ids are the row's number from 0."""
    groups: dict[str, list[str]] = {}
    """Group name -> fields; scores are reported apart for every combination of their values."""
    prompt: str
    """What is sent for one problem; {problem} stands for its text."""
    example: str
    """How a worked example looks in front of it; {problem} and {solution}."""
    examples: list[Example] = []
    stop: list[str] = []
    """Generation ends before any of these."""
    max_new_tokens: Annotated[int, Field(gt=0)]
    answer_rules: Annotated[list[AnswerRule], Field(min_length=1)]

    @field_validator("reference")
    @classmethod
    def _one_group(cls, reference: ReferenceMapping) -> ReferenceMapping:

        if reference.pattern is not None and re.compile(reference.pattern).groups != 1:
            raise ValueError("the pattern must have exactly one group, which is the answer")
        return reference

    @model_validator(mode="after")
    def _placeholders(self) -> "BenchmarkConfig":
        for text, wanted in ((self.prompt, {"problem"}), (self.example, {"problem", "solution"})):
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
            if found != wanted:
                raise ValueError(f"the template {text!r} must use exactly {sorted(wanted)}")
        return self
