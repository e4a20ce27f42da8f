"""Answers that are kept: any engine, with a file of its answers and a budget around it.

The same command asks only what has no answer in the file. Answers come in the order of the
requests, whatever the order in which the engine gave them.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.files import sha256_json
from megatron_math.base.log import log
from megatron_math.engine.answer_file import AnswerFile
from megatron_math.engine.budget import Budget, Cost
from megatron_math.engine.config import BudgetConfig
from megatron_math.engine.interface import (
    Answer,
    Answers,
    Engine,
    Generation,
    Keep,
    Request,
    generate_by_answers,
)

KEY_VERSION = 1
ANSWERS = "answers.jsonl"
AHEAD = 100_000  # answers that may wait for one before them, by their places in the file
LOG_INTERVAL_S = 10.0


def key_of(request: Request, who: Mapping[str, Any]) -> str:
    """The digest that an answer is kept under. who: all that tells one model from another."""
    return sha256_json({"version": KEY_VERSION, "who": dict(who), "request": request.to_json()})


class KeptEngine(Engine):
    """`engine` with its answers in `folder`/answers.jsonl. Close it, or use it as a context.

    who: all that tells this model from another; answers of others in the same file do not count.
    stopping: asked before each request; once it is true, what is in flight is waited for, and then
    StoppedOnRequest raised. So it is when the budget has no room for a request.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        who: Mapping[str, Any],
        budget: BudgetConfig | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine = engine
        self.who = dict(who)
        self.file = AnswerFile(Path(folder) / ANSWERS)
        spent = Cost(self.file.calls, self.file.prompt_tokens, self.file.new_tokens)
        self.budget = Budget(budget or BudgetConfig(), spent)
        self._stopping = stopping
        self._lock = threading.Lock()
        if len(self.file):
            log.info(
                "%s: %d answers are there; so far %s",
                self.file.path, len(self.file), self.budget.report(),
            )  # fmt: skip

    def __enter__(self) -> "KeptEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until the disk has every answer; the inner engine is closed, too."""
        self.file.close()
        self.engine.close()

    def calls_for(self, request: Request) -> int:
        return self.engine.calls_for(request)

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        return generate_by_answers(self, prompts, max_new_tokens, stop)

    def answers(self, requests: Iterable[Request], keep: Keep | None = None) -> Answers:
        """As `Engine.answers`, but in the order of the requests, and each request asked once.

        A request that failed before is asked again. Raises StoppedOnRequest, see above; then all
        answers to earlier requests were handed out.
        """
        return _Pass(self, requests, keep).run()


class _Pass:
    """One walk over a list of requests.

    A round asks the inner engine what has no answer, until the requests end, the budget refuses or
    too many answers wait for an earlier one; then it waits for what is in flight.
    """

    def __init__(self, kept: KeptEngine, requests: Iterable[Request], keep: Keep | None) -> None:
        self._kept = kept
        self._source = enumerate(requests)
        self._keep = keep
        self._next: tuple[int, Request] | None = None  # taken from the source, not yet dealt with
        self._ended = False
        self._refused = ""
        self._places: dict[int, int] = {}  # number of a request -> its answer's place in the file
        self._waiting: dict[str, list[int]] = {}  # key in flight -> requests that wait for it
        self._in_flight: dict[int, tuple[str, Request]] = {}  # by their number in the round
        self._sent = self._handed_out = 0
        self._known = self._asked = self._failed = 0
        self._began_s = self._logged_s = time.monotonic()

    def run(self) -> Answers:
        kept = self._kept
        try:
            while not self._ended:
                self._refused, self._sent = "", 0
                with closing(kept.engine.answers(self._missing(), self._keep_answer)) as answers:
                    for _ in answers:
                        self._report()
                        yield from self._in_order()
                yield from self._in_order()
                if self._refused and not self._sent:
                    raise StoppedOnRequest(self._refused)
        finally:
            for _, request in self._in_flight.values():  # of a walk that was broken off
                kept.budget.release(request, kept.calls_for(request))
            self._report(last=True)

    def _missing(self) -> Iterator[Request]:
        """The requests of a round: those without an answer, while they can be afforded."""
        kept = self._kept
        while (item := self._take()) is not None and len(self._places) < AHEAD:
            number, request = item
            key, calls = key_of(request, kept.who), kept.calls_for(request)
            with kept._lock:
                place = kept.file.find(key)
                is_new = place is None and key not in self._waiting
                if is_new:
                    if self._refuse(request, calls):
                        return
                    kept.budget.hold(request, calls)
                    self._waiting[key] = [number]
                    self._in_flight[self._sent] = key, request
                    self._sent += 1
                elif place is not None:
                    self._places[number] = place
                    self._known += 1
                else:
                    self._waiting[key].append(number)
            self._next = None
            if place is not None and self._keep is not None:
                self._keep(number, kept.file.read(place))
            if is_new:
                yield request

    def _take(self) -> tuple[int, Request] | None:
        if self._next is None:
            self._next = next(self._source, None)
            self._ended = self._next is None
        return self._next

    def _refuse(self, request: Request, calls: int) -> bool:
        kept = self._kept
        if kept._stopping():
            self._refused = f"stopped; {kept.file.path} holds {len(kept.file)} answers"
        elif not kept.budget.admits(request, calls):
            self._refused = (
                f"the budget ({kept.budget.limits()}) has no room for the next request: spent are "
                f"{kept.budget.report()}; {len(kept.file)} answers are kept in {kept.file.path}; "
                f"raise the limit under 'budget' and the same command goes on"
            )
        return bool(self._refused)

    def _keep_answer(self, sent: int, answer: Answer) -> None:
        kept = self._kept
        with kept._lock:
            key, request = self._in_flight[sent]
            place = kept.file.append(key, request, answer)
            kept.budget.charge(request, kept.calls_for(request), answer)
            del self._in_flight[sent]
            waiting = self._waiting.pop(key)
            self._places.update(dict.fromkeys(waiting, place))
            self._asked += 1
            self._failed += answer.failure is not None
        if self._keep is not None:
            for waiter in waiting:
                self._keep(waiter, answer)

    def _in_order(self) -> Iterator[tuple[int, Answer]]:
        while (place := self._places.pop(self._handed_out, None)) is not None:
            number, self._handed_out = self._handed_out, self._handed_out + 1
            yield number, self._kept.file.read(place)

    def _report(self, *, last: bool = False) -> None:
        now_s = time.monotonic()
        if self._asked and (last or now_s - self._logged_s >= LOG_INTERVAL_S):
            self._logged_s = now_s
            log.info(
                "%s: %d asked (%d failed), %d known before, %.1f answers/s, so far %s",
                self._kept.file.path, self._asked, self._failed, self._known,
                self._asked / max(now_s - self._began_s, 1e-9), self._kept.budget.report(),
            )  # fmt: skip
