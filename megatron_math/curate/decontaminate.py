"""Find benchmark problems in training text.

Four rules, each with its own way to split a text into words (`native/words.py`):

    ngram10   DeepSeekMath's: any run of ten words of the row; rows of three to nine words are
              looked for whole. Words are runs of letters and digits, case and punctuation aside.
    ngram13   Qwen2.5-Math's: a run of thirteen words, and more than 0.6 of the row's words in its
              order around it; rows of three to twelve words are looked for whole. Numbers are units
              and LaTeX's layout does not count.
    numbers   a twin with other numbers: a mark in the place of every number, operators as words,
              then more than 0.9 of the row's words in its order around a run of eight; rows of six
              and seven words are looked for whole, shorter ones and those without numbers not.
    exact     the whole row, punctuation included, spacing and case aside: for problems written by
              templates, which share long phrases by design and may differ in a sign alone.

With `ngram10` GSM8K test hits 11 of 7,473 GSM8K train questions, and 123 when the solutions are
searched on both sides (2026-11-21).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from megatron_math.base.errors import UserError
from megatron_math.native.row_search import (
    ByteArray,
    Int64Array,
    Need,
    RowHit,
    RowSearcher,
    Searched,
    SearchRule,
)
from megatron_math.native.words import Splitting

Rule = Literal["ngram10", "ngram13", "numbers", "exact"]
DEFAULT_RULES: tuple[Rule, ...] = ("ngram10", "ngram13", "numbers")
RULES: dict[Rule, SearchRule] = {
    "ngram10": SearchRule(Splitting.PLAIN, 10, 3, Need.SEED),
    "ngram13": SearchRule(Splitting.MATH, 13, 3, Need.SHARE, 0.6),
    "numbers": SearchRule(Splitting.NUMBERS, 8, 6, Need.SHARE, 0.9),
    "exact": SearchRule(Splitting.CHUNKS, 8, 3, Need.WHOLE, whole_texts=True),
}
assert set(RULES) == set(get_args(Rule))


@dataclass(frozen=True)
class BenchmarkText:
    """What is looked for: a benchmark row's text and where it comes from.

    rules: its own; empty for those of the searcher.
    """

    benchmark: str
    row: str
    text: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Hit:
    """A benchmark row found in a text. Spans are character offsets: `span` into the text,
    `row_span` into the row. words: how many of the row's `row_words` were found there in order."""

    benchmark: str
    row: str
    rule: Rule
    span: tuple[int, int]
    row_span: tuple[int, int]
    words: int
    row_words: int
    row_text: str

    def explain(self, text: str) -> dict[str, object]:
        """The hit as it is written beside a record with `text`."""
        return {
            "benchmark": self.benchmark,
            "row": self.row,
            "rule": self.rule,
            "span": list(self.span),
            "matched": text[slice(*self.span)],
            "row_span": list(self.row_span),
            "row_matched": self.row_text[slice(*self.row_span)],
            "words": self.words,
            "row_words": self.row_words,
        }


class Searcher:
    """Looks for the rows of many benchmarks at once, each under its rules.

    num_searched, num_not_searched: rows by (benchmark, rule); the latter have too few words, or no
    numbers where numbers are swapped. num_rows, num_too_short: the same by benchmark, of rows that
    some rule, or no rule, looks for. Raises UserError for a row without words.
    """

    def __init__(self, rows: Iterable[BenchmarkText], *rules: Rule) -> None:
        self.num_searched: Counter[tuple[str, Rule]] = Counter()
        self.num_not_searched: Counter[tuple[str, Rule]] = Counter()
        self.num_rows: Counter[str] = Counter()
        self.num_too_short: Counter[str] = Counter()
        by_rule: dict[Rule, list[BenchmarkText]] = {}
        all_rows = list(rows)
        for row in all_rows:
            for rule in row.rules or rules:
                by_rule.setdefault(rule, []).append(row)
        self.rules: list[Rule] = [rule for rule in RULES if rule in by_rule]
        self._rows = [by_rule[rule] for rule in self.rules]
        self._native = RowSearcher([RULES[rule] for rule in self.rules])
        looked_for = set()
        for number, rule in enumerate(self.rules):
            texts = [_encode(row.text) for row in by_rule[rule]]
            said = self._native.add_rows(number, texts)
            for row, how in zip(by_rule[rule], said, strict=True):
                if how == Searched.NO_WORDS:
                    raise UserError(
                        f"benchmark {row.benchmark}, row {row.row}: the text has no words to look "
                        f"for (found {row.text!r:.80}); mend or remove the row"
                    )
                is_searched = how in (Searched.YES, Searched.AS_WHOLE_TEXT)
                if is_searched:
                    looked_for.add(id(row))
                counts = self.num_searched if is_searched else self.num_not_searched
                counts[row.benchmark, rule] += 1
        for row in all_rows:
            (self.num_rows if id(row) in looked_for else self.num_too_short)[row.benchmark] += 1
        self._native.build()

    def search(self, texts: Sequence[str], *, num_threads: int | None = None) -> list[list[Hit]]:
        """Of every text all hits: of every rule and row the best one, rules in the order of RULES,
        and within a rule in the order of the text."""
        encoded = [_encode(text) for text in texts]
        found: list[list[Hit]] = [[] for _ in texts]
        for hit in self._native.search(encoded, num_threads=num_threads):
            found[hit.text].append(self._to_hit(hit, encoded[hit.text]))
        return [self._in_order(hits) for hits in found]

    def search_flat(self, text: ByteArray, offsets: Int64Array) -> Int64Array:
        """All hits in texts of one buffer, by text, in this thread: rows for `hits_in`."""
        return self._native.search_flat(text, offsets)

    def hits_in(self, text: str, found: Int64Array) -> list[Hit]:
        """The hits that `search_flat` found in one text, in the order of `search`."""
        encoded = _encode(text)
        return self._in_order([self._to_hit(RowHit(*hit), encoded) for hit in found.tolist()])

    def _in_order(self, hits: list[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: (self.rules.index(hit.rule), hit.span))

    def find(self, text: str) -> Hit | None:
        """The first hit of `search`, or None."""
        return next(iter(self.search([text])[0]), None)

    def _to_hit(self, hit: RowHit, text: bytes) -> Hit:
        row = self._rows[hit.rule][hit.row]
        return Hit(
            row.benchmark,
            row.row,
            self.rules[hit.rule],
            _characters(text, hit.begin, hit.end),
            _characters(_encode(row.text), hit.row_begin, hit.row_end),
            hit.words,
            hit.row_words,
            row.text,
        )


def _encode(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which JSON may hold, becomes bytes that separate words."""
    return text.encode("utf-8", "surrogatepass")


def _characters(text: bytes, begin: int, end: int) -> tuple[int, int]:
    """Bytes to characters."""
    first = len(text[:begin].decode("utf-8", "surrogatepass"))
    return first, first + len(text[begin:end].decode("utf-8", "surrogatepass"))
