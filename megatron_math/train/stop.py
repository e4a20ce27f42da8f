"""Stop signals of one rank: before the first step they end it at once, later they let a step end.

Before the first step there is nothing to save. Without this a signal that comes while imports and
weights load (seconds to minutes) kills, and no 75 asks for the requeue; and a rank that waits in
C++ for one that has gone does not hear of it (3 of 7 stops on two processes hung so, 2026-11-23).
"""

import logging
import os
import signal
import threading
from collections.abc import Callable

from megatron_math.base.errors import EXIT_STOPPED, StoppedOnRequest
from megatron_math.base.log import log
from megatron_math.device.signals import obey_at_once
from megatron_math.device.start import PASSED_ON

SECONDS_TO_MEET = 10.0
"""What a rank that has a signal still gives the others to come, before it takes them for gone."""

TIME_IS_UP = 1000
"""In place of a signal, where none came: the job ends before another step could be saved."""

last_words: list[Callable[[int], None]] = []
"""Called with the signal, before a process ends that has taken no step."""
_meeting, _met = threading.Event(), threading.Event()
_listening: list[Callable[[], None]] = []


def stop_while_loading() -> None:
    """From now until `stop_signals`, a stop signal ends this process with 75."""
    _listening.append(obey_at_once(PASSED_ON, _obey))


def stop_signals(meet: Callable[[], None]) -> list[int]:
    """A list that is empty until a stop signal arrives; what to do about it is the caller's.

    meet: a barrier of all ranks. A signal that reaches some ranks before it and others behind it
    would leave these in a step without those, so one that arrives while a rank waits there counts
    as before the first step if the others do not come.

    Raises StoppedOnRequest when the barrier breaks after a signal.
    """
    seen: list[int] = []
    _meeting.set()
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: seen.append(received))
    try:
        meet()
    except RuntimeError:
        if seen:
            raise StoppedOnRequest("stopped before the first step") from None
        raise
    _met.set()
    while _listening:
        _listening.pop()()
    return seen


def _obey(number: int) -> None:
    if _meeting.is_set() and _met.wait(SECONDS_TO_MEET):
        return  # in the list, and after the first step
    for words in last_words:
        words(number)
    log.info("stopped by signal %d before the first step", number)
    logging.shutdown()
    os._exit(EXIT_STOPPED)
