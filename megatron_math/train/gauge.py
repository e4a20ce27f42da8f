"""Where a step's time goes, and a trace of chosen steps.

Phases of a step: data, shadow (a pass without FP8), forward_backward, reduce (gradients, as far as
the backward pass has not sent them), optimizer, guards; between steps validation and save. What is
in none of them is other.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.device.gauge import Clock, HostClock, Recorder
from megatron_math.device.open import Device
from megatron_math.train.config import ProfileConfig

OTHER = "other"


class Phases:
    """Time by phase. A phase inside another one interrupts it, so that no time counts twice."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or HostClock()
        self._inside = [OTHER]
        self._borders = [(OTHER, self._clock.mark())]
        self.totals: dict[str, float] = {}
        """Seconds by phase over all that was taken; without `other`."""
        self.num_borders = 0
        """Phases begun or ended so far; for any thread."""
        self.recorder: Recorder | None = None
        """Gets the names of the phases while it records."""

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Inside, time belongs to phase `name`."""
        self._inside.append(name)
        self.num_borders += 1
        self._borders.append((name, self._clock.mark()))
        try:
            with self.recorder.range(name) if self.recorder else contextlib.nullcontext():
                yield
        finally:
            self._inside.pop()
            self.num_borders += 1
            self._borders.append((self._inside[-1], self._clock.mark()))

    @property
    def inside(self) -> str:
        """The phase that this process is in; for any thread."""
        return self._inside[-1]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a phase."""

        @functools.wraps(function)
        def as_phase(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return as_phase

    def take(self) -> dict[str, float]:
        """Seconds of the phases entered since the last call, without `other`."""
        borders, now = self._borders, self._clock.mark()
        self._borders = [(self._inside[-1], now)]
        seconds: dict[str, float] = {}
        for (name, begin), (_, end) in zip(borders, [*borders[1:], (OTHER, now)], strict=True):
            if name != OTHER:
                seconds[name] = seconds.get(name, 0.0) + self._clock.seconds(begin, end)
        for name, value in seconds.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        return seconds


def milliseconds(phases: dict[str, float], total: float | None = None) -> dict[str, float]:
    """Rounded; what the phases leave of `total` seconds is `other`."""
    if total is not None:
        phases = phases | {OTHER: total - sum(phases.values())}
    return {name: round(seconds * 1e3, 3) for name, seconds in phases.items()}


class Profile:
    """Records the steps that `train.profile` asks for on this rank; None: none.

    Steps are counted in this launch, so that a run that goes on from a checkpoint is recorded too.
    """

    def __init__(
        self, config: ProfileConfig | None, folder: Path, device: Device, phases: Phases
    ) -> None:
        self._config, self._folder, self._device, self._phases = config, folder, device, phases
        self._num_steps = self._first_iteration = 0
        if config is None:
            return
        if strangers := [rank for rank in config.ranks if rank >= device.world]:
            raise UserError(
                f"train.profile.ranks {strangers}: there are {device.world} processes, from 0 on"
            )
        if config.tool == "nsys" and device.kind == "cpu":
            raise UserError("train.profile.tool: nsys looks at GPUs and there is none; take torch")
        if device.rank not in config.ranks:
            self._config = None

    @contextlib.contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """Around step `iteration`, counted from 0 over the run."""
        config = self._config
        if config is None:
            yield
            return
        self._num_steps += 1
        if self._num_steps == config.first:
            self._first_iteration = iteration + 1
            self._phases.recorder = Recorder(self._device, config.tool)
            self._phases.recorder.start()
        yield
        if self._num_steps == config.first + config.steps - 1:
            self._stop(iteration + 1)

    def close(self, iteration: int) -> None:
        """Behind the last step of this launch, `iteration` of the run."""
        if self._config is not None and self._num_steps < self._config.first:
            log.warning(
                "train.profile: nothing was recorded, this launch made %d steps and first is %d",
                self._num_steps, self._config.first,
            )  # fmt: skip
        if self._phases.recorder is not None:
            self._stop(iteration)

    def _stop(self, iteration: int) -> None:
        assert self._config is not None
        recorder, self._phases.recorder = self._phases.recorder, None
        assert recorder is not None
        steps = f"{self._first_iteration}-{iteration}"
        path = self._folder / f"rank{self._device.rank}_iterations_{steps}.json.gz"
        recorder.stop(path)
        if self._config.tool == "torch":
            log.info("a trace of iterations %s is in %s (ui.perfetto.dev reads it)", steps, path)
        else:
            log.info("iterations %s were shown to nsys", steps)
