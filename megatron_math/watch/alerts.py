"""Events of a run, told to the log and to a command of the user's choice.

The command runs without a shell, one at a time in the order of the events, beside the training.
It gets a JSON object on its input; whatever it does, training does not notice.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.log import log

MOST_WAITING = 100


class Alerts:
    """`tell` returns at once, from any thread; `close` waits for what was told, within limits."""

    def __init__(
        self, run: str, command: Sequence[str] | None = None, limit_seconds: float = 20.0
    ) -> None:
        self._run, self._command, self._limit_seconds = run, command, limit_seconds
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closing_by = float("inf")
        self.counts: Counter[str] = Counter()
        """Events told in this launch, by kind."""

    def tell(
        self, event: str, iteration: int | None, message: str, *, level: int = logging.WARNING
    ) -> None:
        """One event. event: a short name, such as `spike`; level: of its line in the log."""
        self.counts[event] += 1
        where = "" if iteration is None else f" at iteration {iteration}"
        log.log(level, "%s%s: %s", event, where, message)
        if self._command is None:
            return
        told = {"event": event, "run": self._run, "iteration": iteration, "message": message}
        try:
            self._waiting.put_nowait(told | {"time": round(time.time(), 3)})
        except queue.Full:
            log.warning("the alert command is behind by %d events; this one is lost", MOST_WAITING)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait until everything was told, one limit at most; end a command that takes longer."""
        if self._thread is None:
            return
        self._closing_by = time.monotonic() + self._limit_seconds
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(self._limit_seconds + 2)

    def _work(self) -> None:
        while (told := self._waiting.get()) is not None:
            left = self._closing_by - time.monotonic()
            if left <= 0:
                log.warning("no time is left to tell the alert command of '%s'", told["event"])
                continue
            try:
                self._call(json.dumps(told).encode(), min(self._limit_seconds, left))
            except Exception as error:  # noqa: BLE001 - an alert must not harm what it is about
                log.warning("the alert command cannot be run: %s", type(error).__name__)

    def _call(self, told: bytes, limit_seconds: float) -> None:
        """Its own words stay out of the log: they, like its arguments, may hold a secret."""
        assert self._command is not None
        name = Path(self._command[0]).name
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.communicate(told, timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait()
            log.warning("the alert command %s took over %g s and was ended", name, limit_seconds)
        else:
            if process.returncode:
                log.warning("the alert command %s ended with %d", name, process.returncode)
