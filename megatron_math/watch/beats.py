"""A sign of life of a rank, and which rank holds the others up when none comes on.

Four kinds of evidence, the surest first. Collectives: each rank counts those it has begun in every
group it is in, so of a group whose members wait, the one that counts less has not come; it is named
unless it waits itself, in another group, for a third. Place: the iteration, and how many phases
were begun or ended in it. Waiting: main threads that are inside a collective or a receive, and one
that is not. Writing: a rank whose checkpoint is still being written. Where all are alike (a device
that does not come back, a network that fails inside one collective) nobody is named.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

MOST_NAMED = 8
"""Ranks in one message; of more the number is told."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself, every second."""

    rank: int
    number: int
    """Counts up; one that stays says that the rank does not live."""
    host: str
    process: str
    """Of `launches.process_name`."""
    iteration: int
    """The last that ended."""
    phase: str
    num_borders: int = 0
    """Phases begun or ended since that iteration ended."""
    collectives: Mapping[str, int] = field(default_factory=dict)
    """Begun so far, by group."""
    is_waiting: bool = False
    """Its main thread is inside a collective or a receive."""
    is_writing: bool = False
    """A checkpoint of its is not written yet."""
    is_over: bool = False
    """It has left the loop, and will say no more."""
    pace: Mapping[str, float] = field(default_factory=dict)
    """Seconds of its last steps that are its own, by kind; see `stragglers`."""

    @property
    def place(self) -> tuple[int, int]:
        return self.iteration, self.num_borders

    def encode(self) -> str:
        """As `Heard` takes it apart."""
        head = f"{self.number} {self.iteration} {self.num_borders} {int(self.is_over)}"
        facts = asdict(self)
        collectives = json.dumps(facts.pop("collectives"))
        return "\n".join([head, collectives, json.dumps(facts)])


class Heard:
    """A beat as it was read. Of a thousand ranks most are only compared, so the rest is decoded
    when somebody asks."""

    def __init__(self, text: bytes) -> None:
        head, self.motion, self._facts = text.split(b"\n")  # motion: of its collectives
        numbers = [int(word) for word in head.split()]
        self.number, self.is_over = numbers[0], bool(numbers[3])
        self.place = numbers[1], numbers[2]

    @cached_property
    def beat(self) -> Beat:
        return Beat(**json.loads(self._facts), collectives=json.loads(self.motion))


def behind(beats: Iterable[Beat], *, at_rest: bool = True) -> tuple[list[int], str]:
    """The ranks that hold the others up, and how that is known; none where all are alike.

    at_rest: no rank begins collectives any more, so that their numbers, read one after another,
    can be compared.
    """
    there = [beat for beat in beats if not beat.is_over]
    if at_rest and (missing := _missing(there)):
        return missing, "the others are in a collective that it has not begun"
    last = min((beat.place for beat in there), default=None)
    slow = [beat.rank for beat in there if beat.place == last]
    if len(slow) < len(there):
        return slow, "the others are further on"
    for sign, words in (
        (
            [b.rank for b in there if b.is_writing and b.phase == "save"],
            "its part of the checkpoint is not written",
        ),
        ([b.rank for b in there if not b.is_waiting], "the others wait for a message"),
    ):
        if 0 < len(sign) < len(there):
            return sign, words
    return [], "no rank is behind the others"


def _missing(beats: list[Beat]) -> list[int]:
    """Ranks that others wait for in a collective, and that wait in none themselves."""
    most: dict[str, int] = {}
    least: dict[str, int] = {}
    for beat in beats:
        for group, count in beat.collectives.items():
            most[group] = max(count, most.get(group, count))
            least[group] = min(count, least.get(group, count))
    uneven = [group for group in most if most[group] > least[group]]
    late, held = [], set()
    for beat in beats:
        counts = [(beat.collectives[group], group) for group in uneven if group in beat.collectives]
        if any(count < most[group] for count, group in counts):
            late.append(beat.rank)
        if any(count == most[group] for count, group in counts):
            held.add(beat.rank)
    return [rank for rank in late if rank not in held] or late  # or: they wait in a circle


def describe(beat: Beat) -> str:
    """Which rank, where, and how far it came."""
    number = [*beat.process.split("/"), "", "", ""][2] or "?"
    return (
        f"rank {beat.rank} (host {beat.host}, process {number}) after iteration "
        f"{beat.iteration}, in {beat.phase}"
    )


def describe_all(beats: list[Beat]) -> str:
    """Each of them, or the first few."""
    texts = [describe(beat) for beat in beats[:MOST_NAMED]]
    more = len(beats) - len(texts)
    return "; ".join([*texts, *([f"and {more} more"] if more else [])])
