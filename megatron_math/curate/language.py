"""Which language a text is in, mathematics and code aside: by its script, then by small words.

A language of its own script is known by its letters; those that share the Latin one by words that
every text of some length has. A word of several languages counts for each in part. No library is
asked: those with models of their own were made for prose, and what is met here is half formulas.
"""

import re
from collections import Counter
from functools import cache
from importlib import resources

from megatron_math.base.config import load_yaml
from megatron_math.curate.filters_config import Language

LEAST_WORDS = 5
"""Texts with fewer are in no language; an ideograph, a kana and a syllable of Hangul are one."""
MOST_CHARACTERS = 10_000
"""Of a text that are read."""
LEAST_SHARE = 0.12
"""Of the Latin words those that must be the language's small ones."""
KANA_SHARE = 0.1
"""Of ideographs and kana; from there on it is Japanese."""

_NO_PROSE = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]"
    r"|\\begin\{(equation|align|gather|tikzpicture|array|[bp]?matrix)(\*?)\}.*?\\end\{\1\2\}"
    r"|\[asy\].*?\[/asy\]|\\[A-Za-z]+\*?|https?://\S+",
    re.DOTALL,
)
_SCRIPTS: dict[Language, re.Pattern[str]] = {
    "ko": re.compile("[\uac00-\ud7af]"),
    "ru": re.compile("[\u0400-\u04ff]+"),
    "ar": re.compile("[\u0600-\u06ff]+"),
    "he": re.compile("[\u0590-\u05ff]+"),
    "hi": re.compile("[\u0900-\u097f]+"),
    "th": re.compile("[\u0e00-\u0e7f]+"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2,}"),
}
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile("[\u3041-\u30ff]")
_LATIN = re.compile("[a-z\u00df-\u00f6\u00f8-\u024f\u1e00-\u1eff'\u2019]{2,}")


def language_of(text: str) -> tuple[Language | None, float]:
    """The language, or None, and the share of its script (of its small words, if it is Latin)."""
    text = _NO_PROSE.sub(" ", text[:MOST_CHARACTERS])
    if text.isascii():
        return _latin(_latin_words(text))
    counts: dict[Language, int] = {
        name: len(letters.findall(text)) for name, letters in _SCRIPTS.items()
    }
    han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
    is_japanese = kana > KANA_SHARE * (han + kana)
    counts["ja" if is_japanese else "zh"] = han + kana
    latin = _latin_words(text)
    whole = sum(counts.values()) + len(latin)
    first = max(counts, key=lambda name: counts[name])
    if whole < LEAST_WORDS:
        return None, 0.0
    if counts[first] > len(latin):
        return first, counts[first] / whole
    return _latin(latin)


def _latin_words(text: str) -> list[str]:
    return _LATIN.findall(text.lower().replace("\u2019", "'"))


def _latin(words: list[str]) -> tuple[Language | None, float]:
    if len(words) < LEAST_WORDS:
        return None, 0.0
    weights = small_words()
    scores: dict[Language, float] = {}
    for word, count in Counter(words).items():
        for language, weight in weights.get(word, {}).items():
            scores[language] = scores.get(language, 0.0) + count * weight
    if not scores:
        return None, 0.0
    best = max(scores, key=lambda language: scores[language])
    share = scores[best] / len(words)
    return (best if share >= LEAST_SHARE else None), share


@cache
def small_words() -> dict[str, dict[Language, float]]:
    """word -> language -> 1 / the number of languages that have it."""
    text = resources.files(__package__).joinpath("small_words.yaml").read_text(encoding="utf-8")
    languages: dict[str, dict[Language, float]] = {}
    for language, words in load_yaml(text, "small_words.yaml").items():
        for word in words.split():
            languages.setdefault(word, {})[language] = 1.0
    return {word: {name: 1 / len(own) for name in own} for word, own in languages.items()}
