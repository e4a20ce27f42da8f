"""Stop on request: a signal is remembered, and what is in hand is finished first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from megatron_math.base.log import log

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextmanager
def remember_stops(what: str) -> Iterator[Callable[[], bool]]:
    """While inside, a signal to stop is remembered; a second one has its usual effect."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def remember(number: int, _: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])
        log.info("%s: %s, waiting for what is in flight", what, signal.Signals(number).name)

    before: dict[int, Any] = {n: signal.signal(n, remember) for n in STOP_SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
