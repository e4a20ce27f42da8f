"""When the job's time ends, and whether another step and its checkpoint fit before that."""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping

from megatron_math.train.guard_config import GuardConfig

SLURM_END = "SLURM_JOB_END_TIME"
"""Unix seconds; SLURM sets it in the job and does not change it when a time limit is changed."""
FIRST_SAVE_SECONDS = 60.0
"""Taken for the length of a save until one was seen in this launch."""
CYCLES_REMEMBERED = 100


class JobEnd:
    """Of this job, as far as it is known. A step is one with the validation and saves behind it."""

    def __init__(
        self,
        config: GuardConfig,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
    ) -> None:
        told = environment.get(SLURM_END, "")
        end = config.end_time or (float(told) if told.isdigit() else None)
        self._end = None if config.end_margin_seconds is None else end
        self._margin = config.end_margin_seconds or 0.0
        self._steps: deque[float] = deque(maxlen=CYCLES_REMEMBERED)
        self._longest_save: float | None = None
        self._now = now

    def stepped(self, seconds: float) -> None:
        """So long after the one before a step ended."""
        self._steps.append(seconds)

    def saved(self, seconds: float) -> None:
        """From its begin so long, a checkpoint was on disk."""
        self._longest_save = max(seconds, self._longest_save or 0.0)

    def is_near(self) -> bool:
        """Whether another step could not be saved any more."""
        if self._end is None:
            return False
        save = FIRST_SAVE_SECONDS if self._longest_save is None else self._longest_save
        needed = max(self._steps, default=0.0) + save + self._margin
        return self._now() + needed > self._end
