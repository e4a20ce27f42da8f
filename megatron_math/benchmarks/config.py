"""What a benchmark's YAML says."""

import re
import string
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.answers.extract import Rule
from megatron_math.base.config import Section

Way = Literal["plain", "chat", "tool", "tool chat", "letters", "options"]
TOOL_WAYS = ("tool", "tool chat")
LIKELIHOOD_WAYS = ("letters", "options")
CHAT = "{problem}\n\nReason step by step, and put your final answer within \\boxed{{}}."
TOOL = (
    "{problem}\n\nReason step by step and write Python programs where they help, each between "
    "```python and ```; what a program prints is given back to you in an output block. Put your "
    "final answer within \\boxed{{}}."
)


CHOICE = "Question: {problem}\nAnswer:"


class ProblemMapping(Section):
    """The problem's text: these fields of a row, joined."""

    fields: Annotated[list[str], Field(min_length=1)]
    join: str = " "
    close_sentences: bool = False
    """End every field with a full stop where it has no closing mark."""


class OptionsMapping(Section):
    """The options of a choice: a field with a text or a list of texts, shown behind the problem."""

    field: str
    lettered: bool = False
    """Put A), B), ... in front of them."""


class ReferenceMapping(Section):
    """The reference answer: one field, or a part of it."""

    field: str
    pattern: str | None = None
    """A regular expression; its only group is the answer."""
    boxed: bool = False
    """The field is a solution; the answer is in its last box."""
    lettered: bool = False
    """The field is the number of an option, counted from 0; the answer is its letter."""
    joined: bool = False
    """The field is a list of answers, all of which are wanted."""

    @model_validator(mode="after")
    def _one_part(self) -> "ReferenceMapping":
        if (self.pattern is not None) + self.boxed + self.lettered > 1:
            raise ValueError("give one of 'pattern', 'boxed' and 'lettered'")
        return self


class Source(Section):
    """Where the rows come from. Nothing is fetched; an error says what to do with this."""

    hub: str | None = None
    """A dataset's id on the Hugging Face hub."""
    config: str | None = None
    split: str = "test"
    note: str | None = None
    """What else is to be known: another place, rows to leave out."""


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
    source: Source | None = None
    problem: ProblemMapping
    options: OptionsMapping | None = None
    reference: ReferenceMapping | None = None
    """Left out: statements that are looked for in training text and never scored."""
    id: str | None = None
    """The field with a row's id; without it ids are the row's number from 0."""
    groups: dict[str, list[str]] = {}
    """Group name -> fields; scores are reported apart for every combination of their values."""
    prompt: str
    """What is sent for one problem; {problem} stands for its text and its options."""
    chat: str = CHAT
    """The same for a model that is talked to."""
    tool: str = TOOL
    """The same for a model that may run Python."""
    choice: str = CHOICE
    """What stands before an option whose likelihood is asked."""
    example: str
    """How a worked example looks in front of it; {problem} and {solution}."""
    examples: list[Example] = []
    examples_of: str | None = None
    """Take the worked examples of this benchmark."""
    stop: list[str] = []
    """Generation ends before any of these."""
    max_new_tokens: Annotated[int, Field(gt=0)]
    answer_rules: Annotated[list[Rule], Field(min_length=1)]

    @field_validator("reference")
    @classmethod
    def _one_group(cls, reference: ReferenceMapping | None) -> ReferenceMapping | None:
        pattern = reference.pattern if reference is not None else None
        if pattern is not None and re.compile(pattern).groups != 1:
            raise ValueError("the pattern must have exactly one group, which is the answer")
        return reference

    @model_validator(mode="after")
    def _placeholders(self) -> "BenchmarkConfig":
        one = (self.prompt, self.chat, self.tool, self.choice)
        templates = [(text, {"problem"}) for text in one]
        for text, wanted in (*templates, (self.example, {"problem", "solution"})):
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
            if found != wanted:
                raise ValueError(f"the template {text!r} must use exactly {sorted(wanted)}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides a result: not where the rows come from, and no key that says nothing."""
        identity = super().identity()
        del identity["source"]
        for name in ("options", "chat", "tool", "choice", "examples_of"):
            if identity[name] == type(self).model_fields[name].default:
                del identity[name]
        for name in ("boxed", "lettered", "joined"):
            if identity["reference"] is not None and not identity["reference"][name]:
                del identity["reference"][name]
        return identity
