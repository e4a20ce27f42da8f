"""Find benchmark problems in training text.

Two rules. `ngram10` is DeepSeekMath's: a text that shares any run of ten words with a benchmark
row is contaminated; rows of three to nine words are looked for whole. `exact` looks for the whole
row only, and is the rule for problems written by templates, which share long phrases by design.

Words are runs of letters and digits, case folded, punctuation ignored (CJK: one character a word).
With this splitting GSM8K test hits 11 of 7,473 GSM8K train questions, and 123 when the solutions
are searched on both sides (2026-11-21). The `exact` rule keeps punctuation, since `3 + 4` and
`3 - 4` differ in nothing else.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from megatron_math.base.errors import UserError

Rule = Literal["ngram10", "exact"]
NGRAM_WORDS = 10
MIN_WORDS = 3
# Where to compare word by word is looked up by a phrase's first words: this many, or `MIN_WORDS` of
# a shorter phrase.
ANCHOR_WORDS: dict[Rule, int] = {"ngram10": NGRAM_WORDS, "exact": 8}

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_CHUNK = re.compile(r"\S+")


@dataclass(frozen=True)
class BenchmarkText:
    """What is looked for: a benchmark row's text and where it comes from."""

    benchmark: str
    row: str
    text: str


@dataclass(frozen=True)
class Hit:
    """A benchmark row found in a text; `span` are character offsets into that text."""

    benchmark: str
    row: str
    rule: Rule
    span: tuple[int, int]


@dataclass(frozen=True)
class _Phrase:
    """`words` is what must stand in the text, from the anchor's first word on."""

    words: tuple[str, ...]
    source: BenchmarkText


class Searcher:
    """Looks for the rows of many benchmarks at once, under one rule.

    num_rows: rows looked for, by benchmark. num_too_short: rows of fewer than `MIN_WORDS` words,
    which `ngram10` cannot look for; `exact` looks for them as a whole text only.
    Raises UserError for a row without words.
    """

    def __init__(self, rows: Iterable[BenchmarkText], rule: Rule) -> None:
        self.rule = rule
        self.num_rows: Counter[str] = Counter()
        self.num_too_short: Counter[str] = Counter()
        # length of the anchor in words -> anchor -> phrases that begin with it
        self._phrases: dict[int, dict[str, list[_Phrase]]] = {}
        self._whole: dict[str, BenchmarkText] = {}
        for row in rows:
            self._add(row)

    def _add(self, row: BenchmarkText) -> None:
        words = self._words(row.text)
        if not words:
            raise UserError(
                f"benchmark {row.benchmark}, row {row.row}: the text has no words to look for "
                f"(found {row.text!r:.80}); mend or remove the row"
            )
        if self.rule == "ngram10" and len(words) >= NGRAM_WORDS:
            for start in range(len(words) - NGRAM_WORDS + 1):
                self._add_phrase(words[start : start + NGRAM_WORDS], row)
        elif len(words) >= MIN_WORDS:
            self._add_phrase(words, row)
        elif self.rule == "exact":
            self._whole.setdefault(" ".join(words), row)
        else:
            self.num_too_short[row.benchmark] += 1
            return
        self.num_rows[row.benchmark] += 1

    def _add_phrase(self, words: list[str], row: BenchmarkText) -> None:
        anchor_words = ANCHOR_WORDS[self.rule]
        if len(words) < anchor_words:
            anchor_words = MIN_WORDS
        anchors = self._phrases.setdefault(anchor_words, {})
        phrases = anchors.setdefault(" ".join(words[:anchor_words]), [])
        if all(list(phrase.words) != words for phrase in phrases):
            phrases.append(_Phrase(tuple(words), row))

    def find(self, text: str) -> Hit | None:
        """A benchmark row found in `text` (the first whose words come first), or None."""
        words = self._words(text)
        if self._whole and (row := self._whole.get(" ".join(words))):
            return self._hit(text, row, 0, len(words))
        for anchor_words, anchors in self._phrases.items():
            for start in range(len(words) - anchor_words + 1):
                for phrase in anchors.get(" ".join(words[start : start + anchor_words]), ()):
                    end = start + len(phrase.words)
                    if tuple(words[start:end]) == phrase.words:
                        return self._hit(text, phrase.source, start, end)
        return None

    def _hit(self, text: str, row: BenchmarkText, start: int, end: int) -> Hit:
        spans = [match.span() for match in self._pattern.finditer(text)]
        return Hit(row.benchmark, row.row, self.rule, (spans[start][0], spans[end - 1][1]))

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _WORD if self.rule == "ngram10" else _CHUNK

    def _words(self, text: str) -> list[str]:
        """The words of `text`, each in normal form, as many as `_pattern` finds."""
        if text.isascii():
            return self._pattern.findall(text.lower())
        return [
            unicodedata.normalize("NFKC", word).casefold() for word in self._pattern.findall(text)
        ]
