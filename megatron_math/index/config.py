"""What the `index` section of a road holds."""

import string
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.index.blocks import BLOCK_BYTES, MAX_LINE_BYTES

TEMPLATE_FIELDS = {"problem", "solution"}


class SourceConfig(Section):
    """Where a source's records are: `path`, or a `file` that a stage of this road wrote."""

    path: str | list[str] | None = None
    """A file, a glob pattern, a folder, or a list of them (.jsonl, .json, .gz, .zst, .parquet)."""
    stage: Literal["10_synthesize", "20_curate"] | None = None
    """A stage folder of this road."""
    file: str | None = None
    """The file inside `stage`, such as problems.jsonl."""
    template: str | None = None
    """How a problem and its solution become text; default: 'Question: ...', 'Solution: ...'."""
    text_key: str | None = None
    """The key that holds the text; default: what each record has, the first of input/output,
    `text`, problem/solution, and `messages` as a chat. With `chat`, the key of the messages."""
    chat: bool = False
    """Every record is a chat, whatever else it holds: its `messages` (a list of objects with role
    and content) become text through the tokenizer's own chat template."""

    @model_validator(mode="after")
    def _one_place(self) -> "SourceConfig":
        if (self.path is None) == (self.stage is None) or (self.stage is None) != (
            self.file is None
        ):
            raise ValueError("give either 'path', or 'stage' together with 'file'")
        if self.template is not None and self.text_key is not None:
            raise ValueError("'template' has no effect beside 'text_key'; drop one of them")
        if self.template is not None and self.chat:
            raise ValueError(
                "'template' is for problem and solution and has no effect beside 'chat'; drop one"
            )
        return self

    @field_validator("template")
    @classmethod
    def _known_fields(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(
                f"{error}; other braces than the fields' are doubled: {{{{ }}}}"
            ) from None
        fields = {name for _, name, _, _ in parsed if name is not None}
        if fields != TEMPLATE_FIELDS or any(spec or conversion for *_, spec, conversion in parsed):
            raise ValueError(
                "a template holds {problem} and {solution}, as they are (other braces doubled: "
                f"{{{{ }}}}), found the fields {sorted(fields)} in '{template}'"
            )
        return template


class TrainTokenizerConfig(Section):
    """A SentencePiece BPE model trained on the road's own sources."""

    vocab_size: int = Field(ge=261)
    """Ids in all, of which 4 are special and 256 are bytes."""
    sources: list[str] | None = None
    """Names of the sources to train on; default: all."""
    sample_bytes: int = Field(default=32_000_000, ge=1_000)
    """At most so much text, drawn evenly from these sources."""
    character_coverage: float = Field(default=0.9995, gt=0.9, le=1.0)
    """Share of characters that get a piece of their own; the others are spelt in bytes."""


class TrainedTokenizer(Section):
    """`tokenizer: {train: {...}}`."""

    train: TrainTokenizerConfig


class IndexConfig(Section):
    """Sources, and the tokenizer that turns them into ids."""

    tokenizer: str | TrainedTokenizer = "base"
    """`base` (the one in 00_base), a folder or file, or {train: {vocab_size: ...}}."""
    sources: dict[str, SourceConfig] = Field(min_length=1)
    append_eod: bool = True
    """Whether every document ends with the tokenizer's end-of-document id."""
    engine: Literal["auto", "reference"] = "auto"
    """`auto`: the fastest one that gives the same ids as the reference library."""
    max_line_bytes: int = Field(default=MAX_LINE_BYTES, ge=BLOCK_BYTES)
    """A longer line is put aside; below that, a line's size is what memory grows with."""
    max_bad: Annotated[float, LOCATION, Field(ge=0, le=1)] = 0.001
    """The share of a source's lines that may be unusable; they are put aside into drops/."""
    workers: Annotated[int | None, LOCATION, Field(ge=1)] = None
    """Threads that tokenize; default: one for each core that this process may use."""
    log_interval: Annotated[int, LOCATION, Field(ge=1)] = 10_000
    """Documents between two log lines, where no progress bar can be drawn."""

    @model_validator(mode="after")
    def _names(self) -> "IndexConfig":
        for name in self.sources:
            if not name or not set(name) <= set(string.ascii_letters + string.digits + "._-"):
                raise ValueError(f"source name '{name}' must consist of letters, digits, . _ -")
        wanted = (
            self.tokenizer.train.sources if isinstance(self.tokenizer, TrainedTokenizer) else None
        )
        for name in wanted or []:
            if name not in self.sources:
                raise ValueError(
                    f"tokenizer.train.sources names '{name}', sources are {sorted(self.sources)}"
                )
        return self
