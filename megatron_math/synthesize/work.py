"""The work on one item, as a generator: it yields what to ask, is sent answers, returns an outcome.

Nothing here asks anybody; `driver` does, for thousands of items at a time.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from megatron_math.base.files import sha256_json
from megatron_math.engine.interface import Answer, Generation, Request
from megatron_math.synthesize.method_config import AskedConfig
from megatron_math.synthesize.tags import Unusable

Verdicts = dict[str, bool | None]
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Seed:
    """A problem to begin with. answer: the reference, None where there is none."""

    id: str
    problem: str
    solution: str | None = None
    answer: str | None = None
    attempts: tuple[tuple[str, str], ...] = ()
    """(who, solution) of attempts that came with it."""


@dataclass(frozen=True)
class Ask:
    """A request, and the role of the engine that gets it."""

    role: str
    request: Request


@dataclass
class Candidate:
    """What becomes a record if the rule accepts its verdicts.

    checked: the text whose statements must hold, where that is not the whole solution. raw: the
    answer that it was read from. asked: the prompt, where the pair is kept to teach another model.
    verdicts: by name; None where a check does not apply.
    """

    problem: str
    solution: str
    answer: str | None
    raw: str = ""
    checked: str | None = None
    asked: str = ""
    verdicts: Verdicts = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """Something that no record was made of. reason: one of few; raw: the answer, if any."""

    reason: str
    detail: str = ""
    raw: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of one item. keep: of the candidates that the rule accepts, at most so many."""

    candidates: list[Candidate] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    keep: int | None = None


Asking = Generator[Sequence[Ask], Sequence[Answer], Returned]
Work = Asking[Outcome]


@dataclass(frozen=True)
class Voice:
    """An engine as a method speaks to it: its role, how it draws, and seeds that never repeat."""

    role: str
    config: AskedConfig
    road_seed: int

    @property
    def model(self) -> str:
        """The model's name, as records tell it."""
        if self.config.server is not None:
            return self.config.server.model
        assert self.config.hf is not None
        folder = self.config.hf.folder
        is_export = folder.parent.name == "60_export"  # of a road, whose name tells more
        return "/".join(folder.parts[-3:]) if is_export else folder.name

    def ask(
        self, prompt: str, item: str, turn: str, *, n: int = 1, temperature: float | None = None
    ) -> Ask:
        """A request whose seed follows from the road's, the item and the turn alone."""
        config = self.config
        heat = config.temperature if temperature is None else temperature
        seed = draw_seed(self.road_seed, item, turn) if heat else None
        request = Request(
            prompt,
            config.max_new_tokens,
            stop=tuple(config.stop),
            n=n,
            temperature=heat,
            top_p=config.top_p if heat else 1.0,
            seed=seed,
        )
        return Ask(self.role, request)


def draw_seed(*parts: int | str) -> int:
    """A number below 2^31 (some servers take no more) that follows from `parts` alone."""
    return int(sha256_json(list(parts))[:8], 16) >> 1


def share_of(*parts: int | str) -> float:
    """A number in [0, 1) that follows from `parts` alone."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode("utf-8")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def whole(answer: Answer) -> Generation:
    """The one generation of an answer. Raises Unusable where there is none, or it was cut off."""
    if answer.failure is not None:
        raise Unusable("no answer", answer.failure)
    generation = answer.generations[0]
    if generation.finish == "length":
        raise Unusable("cut off", generation.text[-80:])
    return generation


def side_by_side(works: Sequence[Asking[Returned]]) -> Asking[list[Returned]]:
    """Several works at once: what they ask in the same turn is asked together."""
    results: dict[int, Returned] = {}
    waiting: dict[int, Sequence[Ask]] = {}

    def move(number: int, answers: Sequence[Answer] | None) -> None:
        waiting.pop(number, None)
        try:
            work = works[number]
            waiting[number] = next(work) if answers is None else work.send(answers)
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(works)):
        move(number, None)
    while waiting:
        turn = sorted(waiting.items())
        answers = yield [ask for _, asks in turn for ask in asks]
        begin = 0
        for number, asks in turn:
            move(number, answers[begin : begin + len(asks)])
            begin += len(asks)
    return [results[number] for number in range(len(works))]
