"""Labels out of a table: which label's keywords a text has.

A keyword is looked for as whole words, case aside, the last one maybe in the plural, and LaTeX
commands with their backslash; one in Chinese anywhere. With `choose: most` the label with most
different keywords wins, with `choose: last` the last label in the table that has any; of equals the
earlier one. A record without a keyword gets `otherwise`, if it is a problem, or no label.
"""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from megatron_math.base.config import Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.records import Record
from megatron_math.curate.dedup import text_of
from megatron_math.curate.labels.config import LabelName

MOST_CHARACTERS = 20_000
"""Of a text that are read."""
_WORD = re.compile(r"\\?[a-z]+")
Words = tuple[str, ...]


class KeywordTable(Section):
    """What a file of labels holds."""

    choose: Literal["most", "last"] = "most"
    otherwise: str | None = None
    labels: dict[str, str] = Field(min_length=2)
    """Label -> keywords with commas between."""

    def words(self, label: str) -> list[str]:
        words = (" ".join(word.split()) for word in self.labels[label].split(","))
        return [word for word in words if word]


def read_table(name: LabelName, own: Path | None) -> KeywordTable:
    """The table of a label. Raises UserError for a file that is none."""
    if own is None:
        where = f"{name}.yaml"
        text = resources.files(__package__).joinpath(where).read_text(encoding="utf-8")
    else:
        where, text = str(own), own.read_text(encoding="utf-8")
    return parse_section(KeywordTable, load_yaml(text, where), where)


class KeywordRule:
    """Says the label of each record by a table."""

    def __init__(self, table: KeywordTable) -> None:
        self._table = table
        self._names = list(table.labels)
        self._by_first: dict[str, list[tuple[Words, int]]] = {}
        self._anywhere: list[tuple[str, int]] = []
        for place, label in enumerate(self._names):
            for keyword in table.words(label):
                if keyword.isascii():
                    words = _words(keyword)
                    if not words:
                        raise UserError(
                            f"a table of labels: the keyword {keyword!r} of {label} has no letters"
                        )
                    self._by_first.setdefault(words[0], []).append((words, place))
                else:
                    self._anywhere.append((keyword, place))

    def judge(self, records: Sequence[Record]) -> list[str | None]:
        return [self._label(record) for record in records]

    def _label(self, record: Record) -> str | None:
        text = text_of(record)[:MOST_CHARACTERS]
        found: dict[int, set[str]] = {}
        words = _words(text)
        for at, word in enumerate(words):
            for form in _forms(word):
                for keyword, place in self._by_first.get(form, ()):
                    if _stands_at(keyword, words, at):
                        found.setdefault(place, set()).add(" ".join(keyword))
        if not text.isascii():
            for part, place in self._anywhere:
                if part in text:
                    found.setdefault(place, set()).add(part)
        if not found:
            return self._table.otherwise if record.problem is not None else None
        if self._table.choose == "last":
            return self._names[max(found)]
        return self._names[min(found, key=lambda place: (-len(found[place]), place))]


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.lower()))


def _forms(word: str) -> tuple[str, ...]:
    """The word, and what it may be the plural of."""
    if word.endswith("es"):
        return word, word[:-1], word[:-2]
    return (word, word[:-1]) if word.endswith("s") else (word,)


def _stands_at(keyword: Words, words: Words, at: int) -> bool:
    """Whether the words from `at` on are the keyword; its last word may be in the plural."""
    end = at + len(keyword) - 1
    return words[at:end] == keyword[:-1] and end < len(words) and keyword[-1] in _forms(words[end])
