"""How many calls are in flight: one more for every round that went well, half of it at overload.

Until the first overload the number doubles from round to round. Times are seconds of the loop's
clock; all of it runs in one event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_LIMIT = 8
TIMER_S = 1e-3  # a timer may ring so much early


class Pace:
    """Lets calls in, first come, first served.

    limit: calls that may be in flight, from 1 to `most`. An overload counts once for all calls that
    were in flight when it was seen.
    """

    def __init__(self, most: int) -> None:
        self.limit = float(min(FIRST_LIMIT, most))
        self.running = 0
        self._most = most
        self._doubling = True
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed_until_s = 0.0
        self._last_overload_s = -1.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a place; gives the time of entry, for `overloaded`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if loop.time() < self._closed_until_s:  # closed in an earlier loop, maybe
            loop.call_at(self._closed_until_s, self._let_in)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise
        try:
            yield loop.time()
        finally:
            self._leave()

    def went_well(self) -> None:
        """A call, which is still counted, was answered; a limit that nobody met says nothing."""
        if self.running >= int(self.limit):
            grown = self.limit + (1.0 if self._doubling else 1.0 / self.limit)
            self.limit = min(float(self._most), grown)
            self._let_in()

    def overloaded(self, entered_s: float) -> None:
        """The server was too busy for a call that had entered at `entered_s`."""
        self._doubling = False
        if entered_s >= self._last_overload_s:
            self._last_overload_s = asyncio.get_running_loop().time()
            self.limit = max(1.0, self.limit / 2)

    def close_for(self, seconds: float) -> None:
        """Let nobody in for so long: the server asked for it."""
        loop = asyncio.get_running_loop()
        self._closed_until_s = max(self._closed_until_s, loop.time() + seconds)
        loop.call_at(self._closed_until_s, self._let_in)

    def _leave(self) -> None:
        self.running -= 1
        self._let_in()

    def _let_in(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s + TIMER_S < self._closed_until_s:
            return
        while self._waiting and self.running < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():  # else its call was cancelled
                self.running += 1
                turn.set_result(None)
