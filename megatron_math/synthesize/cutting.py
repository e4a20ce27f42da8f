"""Cut excerpts out of source texts: for every kind of source its own rule.

An excerpt is a piece of the text as it stands, so that its place in the text says all; only halves
of surrogate pairs, which no UTF-8 holds, are replaced, each by one character.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["web", "arxiv", "book", "qa", "wiki", "proof", "tool"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHARACTERS: Mapping[Kind, int] = {kind: 2000 if kind == "tool" else 1000 for kind in KINDS}
"""Of an excerpt, or of each part of a question and its answer."""
EVERY_STAGE: tuple[Kind, ...] = ("wiki", "proof")
"""Kinds whose texts are few and good: each is asked about with every prompt, not with one."""

# Heads that stand in no comment; a backslash or a per cent sign may be escaped.
_LATEX = re.compile(
    r"\\[\\%]|%[^\n]*"
    r"|(?P<begin>\\begin\s{0,9}\{document\})"
    r"|(?P<head>\\(?:chapter|(?:sub){0,2}section)\*?\s{0,9}(?=[\[{]))"
)
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LAST_CHARACTERS = ".。\n}"


@dataclass(frozen=True)
class Cut:
    """text: as a prompt shows it. spans: (key of the row, begin, end) in characters, end not in."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


def cut_texts(kind: Kind, parts: Mapping[str, str], characters: int) -> Iterator[Cut]:
    """The excerpts of one document. parts: key -> text, two for `qa`, one else."""
    parts = {key: _SURROGATE.sub("�", text) for key, text in parts.items()}
    if kind == "qa":
        spans = [(key, *_trimmed(text, 0, len(text), characters)) for key, text in parts.items()]
        both = [parts[key][begin:end] for key, begin, end in spans]
        if all(both):
            yield Cut("\n\n".join(both), tuple(spans))
        return
    [(key, text)] = parts.items()
    for begin, end in _pieces(kind, text):
        first, last = _trimmed(text, begin, end, characters)
        if kind == "tool" and text[last:].strip():
            last = _cut_back(text, first, last)
        if first < last:
            shown = text[first:last]
            yield Cut(fenced(shown) if kind == "book" else shown, ((key, first, last),))


def fenced(text: str) -> str:
    """`text` between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _pieces(kind: Kind, text: str) -> Iterator[tuple[int, int]]:
    """Where the pieces of a document begin and end: at its heads, where the kind has some."""
    begins, is_begun = [0], False
    if kind == "arxiv":
        for match in _LATEX.finditer(text):
            if match["head"]:
                begins.append(match.start())
            elif match["begin"] and not is_begun:
                begins, is_begun = [match.end()], True  # what stands before is not shown
    elif kind == "book":
        begins += _level_two_heads(text)
    yield from zip(begins, [*begins[1:], len(text)], strict=True)


def _level_two_heads(text: str) -> Iterator[int]:
    """Where lines that begin with `## ` do, but for those in code fences."""
    place, fence = 0, ""
    for line in text.split("\n"):
        if match := _FENCE.match(line):
            if not fence:
                fence = match[1]
            elif match[1].startswith(fence):
                fence = ""
        elif not fence and line.startswith("## "):
            yield place
        place += len(line) + 1


def _trimmed(text: str, begin: int, end: int, characters: int) -> tuple[int, int]:
    """At most so many characters of a piece, without white space at both ends."""
    while begin < end and text[begin].isspace():
        begin += 1
    return begin, begin + len(text[begin : min(end, begin + characters)].rstrip())


def _cut_back(text: str, begin: int, end: int) -> int:
    """Behind the last full stop, newline or brace, where there is one."""
    place = max(text.rfind(character, begin, end) for character in _LAST_CHARACTERS)
    return end if place < 0 else place + len(text[place : place + 1].rstrip())
