"""A page as its reader meets it, and the numbers of the JSON beside it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass
class Page(HTMLParser):
    """What a reader meets: words, exact numbers with how they are written, references."""

    words: list[str] = field(default_factory=list)
    numbers: list[tuple[float, str]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    configuration: dict[str, str] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    _value: float | None = None
    _pre: str | None = None
    _skip: bool = False

    @classmethod
    def read(cls, path: Path) -> "Page":
        page = cls()
        HTMLParser.__init__(page)
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self._skip = tag in ("style", "script")
        self.references += [str(named[key]) for key in ("href", "src") if key in named]
        if tag == "data":
            self._value = float(str(named["value"]))
        if "data-configuration" in named:
            self._pre = named["data-configuration"]
            self.configuration[str(self._pre)] = ""

    def handle_endtag(self, tag: str) -> None:
        self._skip = False
        if tag == "pre":
            self._pre = None

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        if self._pre is not None:
            self.configuration[self._pre] += data
            return
        if self._value is not None:
            self.numbers.append((self._value, data))
            self._value = None
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace("\u202f", " "))


def leaves(value: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check_alone(path: Path) -> None:
    """The page asks nobody for anything, and what it refers to is there."""
    page = Page.read(path)
    html = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?(?:[a-z]+:)?//""", html)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", html)
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    for reference in page.references:
        inside = reference.startswith("#")
        assert inside or (path.parent / reference).exists(), reference
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(anchors)


def check_drawings(path: Path) -> None:
    """Every drawing is told in words."""
    for tag, attributes in Page.read(path).tags:
        if tag == "svg" or attributes.get("role") == "img":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
