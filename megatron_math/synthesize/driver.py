"""Work on thousands of items at a time, and hand out what became of them in their order.

An item's generator says what to ask (`work`). Requests of all items in work go to the engines as
they come up; the answer of one item lets it go on while others wait for theirs. One engine is
asked at a time, until it has nothing more to do.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.engine.interface import Answer, Request
from megatron_math.engine.kept import KeptEngine
from megatron_math.synthesize.work import Outcome, Work


@dataclass
class _Item:
    """An item in work: its generator, and the answers to what it asked last, as they come."""

    work: Work
    answers: dict[int, Answer] = field(default_factory=dict)
    num_asked: int = 0
    outcome: Outcome | None = None


class Driver:
    """engines: by role. window: items in work at most. stopping: as the engines have it.

    requests, answered: by role, of what the items asked and of what was answered.
    """

    def __init__(
        self,
        engines: Mapping[str, KeptEngine],
        window: int,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._engines = engines
        self._window = window
        self._stopping = stopping
        self._source: Iterator[Work] = iter(())
        self._in_work: deque[_Item] = deque()
        self._ready: dict[str, deque[tuple[_Item, int, Request]]] = {r: deque() for r in engines}
        self._arrived: deque[tuple[str, _Item, int, Answer]] = deque()

    def run(self, works: Iterable[Work]) -> Iterator[Outcome]:
        """What becomes of each item, in the order of `works`.

        Raises StoppedOnRequest once all that was asked is answered and kept; then the same items
        may be worked on from the beginning, and nothing is asked twice.
        """
        self._source = iter(works)
        while True:
            if self._stopping():
                raise StoppedOnRequest("stopped; the same command goes on")
            if not self._start() and not self._in_work:
                return
            role = next((role for role, waiting in self._ready.items() if waiting), None)
            if role is not None:
                yield from self._ask(role)
            yield from self._finished()

    def _start(self) -> bool:
        """Begin one more item, if there is one and room for it."""
        if len(self._in_work) >= self._window or self._stopping():
            return False
        work = next(self._source, None)
        if work is None:
            return False
        item = _Item(work)
        self._in_work.append(item)
        self._move(item, None)
        return True

    def _move(self, item: _Item, answers: Sequence[Answer] | None) -> None:
        """Let an item go on until it asks something, or ends."""
        try:
            asks = next(item.work) if answers is None else item.work.send(answers)
            while not asks:
                asks = item.work.send([])
        except StopIteration as end:
            item.outcome = end.value
            return
        item.num_asked = len(asks)
        for place, ask in enumerate(asks):
            self.requests[ask.role] += 1
            self._ready[ask.role].append((item, place, ask.request))

    def _ask(self, role: str) -> Iterator[Outcome]:
        """Ask one engine until nobody has anything to ask it."""
        sent: dict[int, tuple[_Item, int]] = {}

        def requests() -> Iterator[Request]:
            waiting = self._ready[role]
            number = 0
            while True:
                self._take_arrived()
                while not waiting and self._start():
                    pass
                if not waiting:
                    return
                item, place, request = waiting.popleft()
                sent[number] = item, place
                number += 1
                yield request

        def keep(number: int, answer: Answer) -> None:  # maybe in another thread
            self._arrived.append((role, *sent.pop(number), answer))

        for _ in self._engines[role].answers(requests(), keep):
            self._take_arrived()
            yield from self._finished()
        self._take_arrived()

    def _take_arrived(self) -> None:
        while self._arrived:
            role, item, place, answer = self._arrived.popleft()
            self.answered[role] += answer.failure is None
            item.answers[place] = answer
            if len(item.answers) == item.num_asked:
                answers = [item.answers[place] for place in range(item.num_asked)]
                item.answers = {}
                self._move(item, answers)

    def _finished(self) -> Iterator[Outcome]:
        while self._in_work and (outcome := self._in_work[0].outcome) is not None:
            self._in_work.popleft()
            yield outcome
