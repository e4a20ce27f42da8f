"""The `synthesize` section for the method `excerpts`: source texts, prompts, tool items."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from megatron_math.base.config import Section
from megatron_math.synthesize.cutting import CHARACTERS, EVERY_STAGE, Kind
from megatron_math.synthesize.method_config import AskedConfig, CheckedByModels, PlaceConfig
from megatron_math.synthesize.verdicts.rule import AcceptRule

Stage = Literal["grade", "middle", "high", "college", "amc8", "amc10", "amc12", "aime"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TOOL = "tool"


class SourceTextConfig(PlaceConfig):
    """Texts of one kind, a row each; a .tex, .md or .txt file is one text."""

    kind: Kind
    """Says how excerpts are cut: web, wiki, proof (the beginning), arxiv (each LaTeX section), book
    (each level-2 Markdown head), qa (question and answer), tool (longer, for items with code)."""
    text: str | None = None
    """Key of the text, or of the question; default: text, content; problem, question, input."""
    answer: str | None = None
    """qa: key of the answer; default: solution, answer, output."""
    characters: Annotated[int | None, Field(ge=1)] = None
    """Longest excerpt (of each part, for qa); default: 1,000, and 2,000 for tool."""
    least_characters: Annotated[int, Field(ge=1)] = 40
    """Shorter excerpts are passed over."""
    stages: Annotated[list[Stage] | None, Field(min_length=1)] = None
    """Prompts for this source, instead of the method's."""
    each: Literal["one", "every"] | None = None
    """Ask about an excerpt with one prompt, drawn, or with every one; default: wiki and proof with
    every one, the others with one."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """At most so many items, drawn."""

    @property
    def longest(self) -> int:
        return self.characters or CHARACTERS[self.kind]

    def prompts(self, stages: list[Stage]) -> list[str]:
        """Which prompts its excerpts may get."""
        return [TOOL] if self.kind == TOOL else [*(self.stages or stages)]

    @property
    def asks_every(self) -> bool:
        return (self.each or ("every" if self.kind in EVERY_STAGE else "one")) == "every"

    @model_validator(mode="after")
    def _has_effect(self) -> "SourceTextConfig":
        if self.kind == TOOL and (self.stages is not None or self.each is not None):
            raise ValueError("tool has one prompt; leave stages and each out")
        if self.kind != "qa" and self.answer is not None:
            raise ValueError(f"answer has no effect for {self.kind}; it is for qa")
        return self


class SandboxConfig(Section):
    """Where the code of tool items runs: a process for each, isolated (docs/sandbox.md)."""

    seconds: Annotated[float, Field(gt=0)] = 5.0
    """Longest time, on the clock and of the processor."""
    memory_bytes: Annotated[int, Field(gt=0)] = 512 << 20
    """Largest address space, loaded modules included."""
    output_characters: Annotated[int, Field(ge=1)] = 2000
    """Code that prints more makes no item."""


class ExcerptsConfig(CheckedByModels):
    """Problems after excerpts of texts, by education stage, and tool items whose code is run."""

    method: Literal["excerpts"]
    sources: dict[str, SourceTextConfig] = Field(min_length=1)
    """By name; the order does not matter."""
    engine: AskedConfig
    stages: list[Stage] = Field(list(STAGES), min_length=1)
    """Prompts that there are: grade, middle, high, college, amc8, amc10, amc12, aime."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """At most so many items in all, drawn: what the writer is asked."""
    only: PlaceConfig | None = None
    """Records of this method: ask about their excerpts alone, each with the prompt it had."""
    without: list[PlaceConfig] = []
    """Records of this method: pass over their excerpts."""
    examples: PlaceConfig | None = None
    """tool: problems with solutions in Python and a boxed answer; one is in each prompt."""
    sandbox: SandboxConfig | None = None
    """tool: limits of the code."""
    needs_answer: bool = True
    """Whether a solution must state a final answer, in a box or in words."""
    accept: AcceptRule = AcceptRule(
        all=["runs", "agreement", "symbolic", "substitution", "teacher"]
    )

    def places(self) -> dict[str, PlaceConfig]:
        found: dict[str, PlaceConfig] = {f"source {n}": p for n, p in self.sources.items()}
        found |= {f"without {number}": place for number, place in enumerate(self.without)}
        named = {"only": self.only, "examples": self.examples}
        return found | {name: place for name, place in named.items() if place is not None}

    @model_validator(mode="after")
    def _has_effect(self) -> "ExcerptsConfig":
        has_tools = any(source.kind == TOOL for source in self.sources.values())
        if has_tools and self.examples is None:
            raise ValueError("a source of kind tool needs 'examples', for its prompt")
        if not has_tools and (self.examples is not None or self.sandbox is not None):
            raise ValueError("examples and sandbox have no effect without a source of kind tool")
        if self.audit:
            raise ValueError("audit has no effect: texts come without solutions")
        lists = [self.stages, *(source.stages or [] for source in self.sources.values())]
        if any(len(set(stages)) < len(stages) for stages in lists):
            raise ValueError("stages names one twice")
        return self
