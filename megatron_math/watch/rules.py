"""What of a run is worth an event: bad steps in a row, a loss that jumps, silence.

Each tells once and is quiet until things were good again.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from megatron_math.watch.progress import stall_limit_seconds

LEAST_STEPS = 10
"""Fewer steps say nothing of what is usual."""
LEAST_DEVIATION = 5e-3
"""Of the median: losses that are all but equal would make anything a spike."""
STEPS_REMEMBERED = 100


class BadSteps:
    """`most` steps in a row that were skipped or have no finite loss and gradient."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0

    def step(self, row: Mapping[str, Any]) -> str | None:
        """A line of metrics.jsonl; returns what to tell, or None."""
        is_good = not row.get("skipped") and all(
            value is not None and math.isfinite(value)
            for value in (row["lm loss"], row["grad-norm"])
        )
        self._count = 0 if is_good else self._count + 1
        if self._count != self._most:
            return None
        return (
            f"{self._count} step(s) in a row were skipped or have no finite loss and gradient "
            f"(loss {row['lm loss']}, gradient norm {row['grad-norm']})"
        )


class Usual:
    """What the last `steps` values of something were like."""

    def __init__(self, steps: int) -> None:
        self._values: deque[float] = deque(maxlen=steps)

    def clear(self) -> None:
        self._values.clear()

    def add(self, value: float) -> None:
        self._values.append(value)

    def away(self, value: float) -> tuple[float, str] | None:
        """Median absolute deviations above the median, and words for it; None with few values."""
        if len(self._values) < LEAST_STEPS:
            return None
        middle = len(self._values) // 2
        median = sorted(self._values)[middle]
        deviation = sorted([abs(one - median) for one in self._values])[middle]
        away = (value - median) / max(deviation, LEAST_DEVIATION * abs(median))
        return away, (
            f"{value:.4f} is {away:.1f} median absolute deviations above {median:.4f}, "
            f"the median of the last {len(self._values)} steps"
        )


class Spikes:
    """A loss that is `deviations` median absolute deviations above the median of `steps` losses."""

    def __init__(self, deviations: float, steps: int) -> None:
        self._deviations = deviations
        self._usual = Usual(steps)
        self._stage: str | None = None
        self._is_high = False

    def step(self, row: Mapping[str, Any]) -> str | None:
        """A line of metrics.jsonl; returns what to tell, or None."""
        loss = row["lm loss"]
        if loss is None or not math.isfinite(loss):
            return None
        if row.get("stage") != self._stage:
            self._stage, self._is_high = row.get("stage"), False
            self._usual.clear()
        told = None
        if (found := self._usual.away(loss)) is not None:
            away, words = found
            if away > self._deviations and not self._is_high:
                told = f"loss {words}"
            self._is_high = away > self._deviations
        self._usual.add(loss)
        return told


class StallTimer:
    """A thread that calls `tell(seconds, where)` when no step ends for too long."""

    def __init__(
        self,
        medians: float,
        least_seconds: float,
        where: Callable[[], str],
        tell: Callable[[float, str], None],
    ) -> None:
        self._medians, self._least_seconds = medians, least_seconds
        self._where, self._tell = where, tell
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._num_steps, self._longest_between = 0, 0.0
        self._last = time.monotonic()
        self._limit_seconds = math.inf
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stall timer", daemon=True)

    def step(self, seconds: float, between_seconds: float) -> None:
        """A step ended. The first one starts the thread: loading takes what it takes."""
        self._steps.append(seconds)
        self._num_steps += 1
        if self._num_steps % LEAST_STEPS == 1 or between_seconds > self._longest_between:
            self._longest_between = max(self._longest_between, between_seconds)
            self._limit_seconds = stall_limit_seconds(
                self._steps, [self._longest_between], self._medians, self._least_seconds
            )
        self._last = time.monotonic()
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        self._closing.set()

    def _work(self) -> None:
        told = None
        while not self._closing.wait(min(1.0, self._least_seconds / 4)):
            last, silence = self._last, time.monotonic() - self._last
            if silence > self._limit_seconds and told != last:
                told = last
                self._tell(silence, self._where())
