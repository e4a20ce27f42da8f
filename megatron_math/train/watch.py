"""What a launch says of itself to those outside: its lines in launches.jsonl, alerts, Prometheus.

Only the last rank, which has the losses, has a Watch. Nothing here may slow or end the training.
"""

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.secrets import masked
from megatron_math.device.start import launched_ranks
from megatron_math.train.exposed import Exposed
from megatron_math.train.stages import TrainStage
from megatron_math.train.stop import TIME_IS_UP, last_words
from megatron_math.watch.alerts import Alerts
from megatron_math.watch.config import WatchConfig
from megatron_math.watch.launches import Ledger
from megatron_math.watch.prometheus import Endpoint
from megatron_math.watch.rules import BadSteps, Spikes, StallTimer

STOPPED = "stopped on request"

first_words: list[Callable[[BaseException], None]] = []
"""Called with what ends a rank early, before anything is taken down; by `noting`."""


class Watch:
    """Of one launch, from its begin to its end."""

    def __init__(
        self,
        folder: Path,
        run: str,
        config: WatchConfig,
        *,
        world: int = 1,
        last_save: Callable[[], float | None] = lambda: None,
    ) -> None:
        """last_save: unix time of the newest checkpoint."""
        self._ledger = Ledger(folder, world=world)
        self._config = config
        self._alerts = Alerts(run, config.alert_command, config.alert_limit_seconds)
        self._rules: dict[str, BadSteps | Spikes] = {}
        if config.bad_steps is not None:
            self._rules["bad_steps"] = BadSteps(config.bad_steps)
        if config.spike_deviations is not None:
            self._rules["spike"] = Spikes(config.spike_deviations, config.spike_steps)
        self._timer: StallTimer | None = None
        self._iteration: int | None = None
        self._has_stepped = self._has_ended = False
        self._exposed = Exposed(run, self._ledger.number, self._alerts.counts, last_save)
        self._endpoint: Endpoint | None = None
        if config.prometheus is not None:
            address = config.prometheus_address
            self._endpoint = Endpoint(address, config.prometheus, self._exposed.families)
        if self._ledger.restart:
            self.tell("restart", self._ledger.cause_before or "killed")

    @property
    def port(self) -> int | None:
        """Of the Prometheus endpoint, where there is one."""
        return self._endpoint.port if self._endpoint else None

    def loaded(
        self,
        iteration: int,
        source: str,
        stages: Sequence[TrainStage],
        before: Mapping[str, Any] | None,
        where: Callable[[], str] = lambda: "?",
    ) -> None:
        """The state of `iteration` is there. before: of `rows_behind`; where: says the phase."""
        self._iteration = iteration
        self._exposed.loaded(iteration, stages[-1].end)
        named = [(stage.name, stage.first, stage.end) for stage in stages]
        self._ledger.loaded(iteration, source, named, before)
        if self._config.stall_medians is not None:
            least = self._config.stall_least_seconds
            self._timer = StallTimer(self._config.stall_medians, least, where, self._stalled)

    def step(self, row: Mapping[str, Any]) -> None:
        """A step ended; `row` is its line in metrics.jsonl."""
        self._iteration = row["iteration"]
        if not self._has_stepped:
            self._has_stepped = True
            self._ledger.stepped(row["iteration"], row["elapsed_ms"] / 1000)
        self._exposed.step(row)
        if self._timer is not None:
            between = math.fsum(row.get("between_ms", {}).values())
            self._timer.step(row["elapsed_ms"] / 1000, between / 1000)
        for event, rule in self._rules.items():
            if (message := rule.step(row)) is not None:
                self.tell(event, message)

    def validated(self, losses: Mapping[str, float]) -> None:
        """Held-out losses by source."""
        self._exposed.validation = losses

    def tell(self, event: str, message: str) -> None:
        """An event of this run: to the log and to the user's command."""
        self._alerts.tell(event, self._iteration, message)

    def note(self, event: str, message: str) -> None:
        """An event that `status` is to know of, too."""
        self.tell(event, message)
        self._ledger.noted(event, self._iteration, message)

    def end(self, cause: str) -> None:
        """How this launch ends; only the first call counts."""
        if self._has_ended:
            return
        self._has_ended = True
        self._ledger.end(cause, self._iteration)
        if self._timer is not None:
            self._timer.close()
        kind = "done" if cause == "done" else "stop" if cause.startswith(STOPPED) else "error"
        self._alerts.tell(kind, self._iteration, cause, level=logging.INFO)

    def stopped(self, number: int) -> None:
        """By a signal, before the first step."""
        self.end(stop_cause(number))
        self.close()

    def close(self) -> None:
        """Waits until the last event was told, or its limit is over."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._alerts.close()

    def _stalled(self, seconds: float, where: str) -> None:
        self.tell("stall", f"no step ended for {seconds:.0f} s; the last rank is in {where}")


class Deputy:
    """Speaks for a Watch whose process is frozen, from rank 0."""

    def __init__(self, folder: Path, run: str, config: WatchConfig) -> None:
        self._ledger = Ledger(folder, world=0, joins=True)
        self._alerts = Alerts(run, config.alert_command, config.alert_limit_seconds)

    def note(self, event: str, message: str) -> None:
        self._alerts.tell(event, None, message)
        self._ledger.noted(event, None, message)

    def end(self, cause: str) -> None:
        self._ledger.end(cause, None)
        self._alerts.tell("error", None, cause)

    def close(self) -> None:
        self._alerts.close()


@contextlib.contextmanager
def watching(
    folder: Path, run: str, config: WatchConfig, last_save: Callable[[], float | None]
) -> Iterator[Watch | None]:
    """The Watch of this launch, on its last rank; its end is written however the block ends."""
    rank, world, _ = launched_ranks() or (0, 1, 0)
    if rank != world - 1:
        yield None
        return
    watch = Watch(folder, run, config, world=world, last_save=last_save)
    try:
        last_words.append(watch.stopped)
        with noting(watch):
            yield watch
        watch.end("done")
    finally:
        last_words.remove(watch.stopped)
        watch.close()


@contextlib.contextmanager
def noting(watch: Watch | None) -> Iterator[None]:
    """Writes down at once what ends the block early, before anything is taken down."""
    try:
        yield
    except BaseException as error:
        for say in first_words:
            say(error)
        if watch is not None:
            watch.end(cause_of(error))
        raise


def stop_cause(number: int) -> str:
    """number: of the signal, or TIME_IS_UP; 0 where `train.stop_after` asked."""
    if number == TIME_IS_UP:
        return f"{STOPPED} (the job's time ends)"
    return f"{STOPPED} ({signal.Signals(number).name if number else 'train.stop_after'})"


def cause_of(error: BaseException) -> str:
    """The first line of an exception, without what the environment holds as a secret."""
    if isinstance(error, StoppedOnRequest):
        return STOPPED
    if isinstance(error, KeyboardInterrupt):
        return stop_cause(signal.SIGINT)
    line = masked((str(error).strip().splitlines() or [""])[0])
    return f"error: {type(error).__name__}: {line}".removesuffix(": ")
