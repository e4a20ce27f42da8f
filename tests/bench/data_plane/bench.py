"""What every measure is given, and what it gives back."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inputs import shown
from timing import Pairs

PYTHON = Path(sys.executable)


@dataclass(frozen=True)
class Bench:
    """work: a folder for everything that is written. quick: small inputs, one pair: a smoke test.

    num_pairs: None for each measure's own number.
    """

    work: Path
    quick: bool = False
    num_pairs: int | None = None

    @property
    def corpora(self) -> Path:
        return self.work / "corpus"

    @property
    def packages(self) -> Path:
        return self.work / "packages"

    def pairs(self, usual: int) -> int:
        return self.num_pairs or (1 if self.quick else usual)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass
class Row:
    """A line of the table. `better`: 'ratio' (higher is better) or 'growth' (bytes, lower)."""

    what: str
    floor: str
    aim: str
    value: dict[str, Any]  # median, low, high, pairs
    unit: str  # "x", "share", "MB"
    peer: str
    ours: str
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measured:
    """How it was set up, in sentences, and what came out."""

    setup: str
    rows: list[Row]
    commands: list[str]


Measure = Callable[[Bench], Measured]


def seconds_and_rate(seconds: list[float], text_bytes: int) -> str:
    median = statistics.median(seconds)
    return f"{median:.2f} s, {text_bytes / median / 1e6:.1f} MB/s"


def rate(seconds: list[float], count: int, unit: str) -> str:
    """Seconds and rate; the rate alone where the seconds are those of one."""
    median = statistics.median(seconds)
    told = f"{count / median:.3g} {unit}/s"
    for scale, letter in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if count / median >= scale:
            told = f"{count / median / scale:.3g} {letter}{unit}/s"
            break
    return told if count == 1 else f"{median:.3g} s, {told}"


def commands(bench: Bench, *lists: list[str | Path]) -> list[str]:
    return [shown(command, bench.work) for command in lists]


def ratio_row(
    what: str, floor: str, aim: str, pairs: Pairs, peer: str, ours: str, **raw: Any
) -> Row:
    return Row(what, floor, aim, pairs.ratio(), "x", peer, ours, {**pairs.to_json(), **raw})
