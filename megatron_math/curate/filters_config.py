"""What `curate.filters` holds: a rule a key, with its limit; null switches a rule off."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from megatron_math.base.config import Section

Language = Literal[
    "en", "zh", "ja", "ko", "ru", "ar", "he", "hi", "th", "el",
    "fr", "de", "es", "it", "pt", "nl", "sv", "pl", "tr", "ro", "id", "vi",
]  # fmt: skip
LANGUAGES: tuple[Language, ...] = get_args(Language)
Number = Annotated[int, Field(ge=0, strict=True)]
Part = Annotated[float, Field(ge=0, le=1)]


class LanguageConfig(Section):
    """Which languages may stay, mathematics and code aside."""

    keep: list[Language] = Field(min_length=1)
    """Such as [en, zh]."""
    unknown: Literal["keep", "drop"] = "keep"
    """Texts of few words, or of mathematics only, and languages that are not known here."""


class FiltersConfig(Section):
    """Texts beyond a rule's limit are dropped. Fenced code and [asy] figures are looked at by
    `mojibake` only."""

    language: LanguageConfig | None = None
    math: Number | None = 0
    r"""Paragraphs where a $ has no partner (sums of money aside), and \( \) \[ \] without one."""
    braces: Number | None = 0
    """Braces without a partner."""
    environments: Number | None = 0
    r"""\begin and \end without a partner."""
    commands: Part | None = 0.75
    r"""Part of the characters, white space aside, that LaTeX commands take."""
    mojibake: Part | None = 0.001
    """Part of the characters that were decoded wrongly, such as Ã© and U+FFFD."""
    repeated_lines: Part | None = 0.3
    """Part of the characters that are in lines which were there before."""
