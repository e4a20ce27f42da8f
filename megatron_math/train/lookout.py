"""What looks after a launch while it trains: the heart of this rank, and the end of the job."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Self

from megatron_math.checkpoint.saver import Saver
from megatron_math.device.gauge import clock_of
from megatron_math.device.open import Device
from megatron_math.device.probe import Probe
from megatron_math.train.gauge import Phases
from megatron_math.train.guard_config import GuardConfig
from megatron_math.train.heart import Heart, Speaker
from megatron_math.train.job_end import JobEnd
from megatron_math.train.stop import TIME_IS_UP
from megatron_math.watch.stragglers import COUNT, PROBE, STEP


class Pace:
    """What of the last steps' time is this rank's own; `stragglers` says what that can tell."""

    def __init__(self, steps: int, device: Device, *, overlap: bool) -> None:
        """overlap: weights of replicas are fetched in the forward pass, which waits for them."""
        self._steps = steps
        grid = device.grid
        is_whole = grid.model == grid.context == grid.expert == 1 and not overlap
        self._kinds = ("data", "forward_backward") if is_whole else ("data",)
        # A CPU's share of a machine says nothing of the CPU: 20 % differ from minute to minute.
        is_own = device.kind != "cpu"
        self._probe = Probe(device.torch_device, clock_of(device)) if is_own else None
        self._taken: defaultdict[str, list[float]] = defaultdict(list)
        self._count = 0
        self.figures: dict[str, float] = {}
        """Medians over the last full count of steps; a new object for each."""

    def step(self, phases: dict[str, float], seconds: float) -> None:
        """A step took `seconds`, and its phases so much of them."""
        self._taken[STEP].append(seconds)
        for kind in self._kinds:
            self._taken[kind].append(phases.get(kind, 0.0))
        number = len(self._taken[STEP])
        if self._probe is not None and number == max(1, self._steps - 1):
            self._probe.run()
        if number < self._steps:
            return
        figures = {kind: median(values) for kind, values in self._taken.items()}
        self._taken.clear()
        if self._probe is not None and (probed := self._probe.seconds()) is not None:
            figures[PROBE] = probed
        self._count += 1
        self.figures = {**figures, COUNT: self._count}


class Lookout:
    """Of one rank. Made before anything can fail, begun when the loop does, closed by its block."""

    def __init__(self, config: GuardConfig, device: Device) -> None:
        self._config, self._device = config, device
        self._job_end = JobEnd(config)
        self._pace: Pace | None = None
        self._heart: Heart | None = None
        self._saver: Saver | None = None
        self._last = time.perf_counter()
        self._saving_since: float | None = None
        self.num_steps = 0
        """Of this launch."""

    def begin(
        self,
        iteration: int,
        phases: Phases,
        saver: Saver,
        folder: Path,
        overlap: bool,
        speaker: Callable[[], Speaker | None],
    ) -> None:
        """The loop comes next, behind `iteration`. Collective.

        overlap: as in `Pace`; speaker: as in `Heart`.
        """
        config = self._config
        self._saver = saver
        if config.heartbeat_seconds is not None:
            if config.straggler_steps is not None and self._device.world > 1:
                self._pace = Pace(config.straggler_steps, self._device, overlap=overlap)
            self._heart = Heart(config, self._device, phases, folder, speaker)
            self._heart.start(iteration, lambda: saver.pending is not None)
        self._last = time.perf_counter()

    def stepped(self, iteration: int, phases: dict[str, float], seconds: float) -> None:
        """Iteration `iteration` ended, and took `seconds`."""
        now = time.perf_counter()
        cycle, self._last = now - self._last, now
        self.num_steps += 1
        if self._heart is not None:  # a job that was suspended has no slow step
            cycle = max(0.0, cycle - self._heart.suspended_seconds)
            self._heart.suspended_seconds = 0.0
        self._job_end.stepped(cycle)
        if self._saving_since is not None and self._saver and self._saver.pending is None:
            self._job_end.saved(now - self._saving_since)
            self._saving_since = None
        if self._pace is not None:
            self._pace.step(phases, seconds)
        if self._heart is not None:
            self._heart.stepped(iteration, cycle, self._pace.figures if self._pace else {})

    def saving(self) -> None:
        """A save begins."""
        self._saving_since = time.perf_counter()

    @property
    def stop_number(self) -> int:
        """As of a signal: what asks this rank to stop, or 0."""
        return TIME_IS_UP if self._job_end.is_near() else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._heart is not None:
            self._heart.close()
