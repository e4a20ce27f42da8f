"""The figures of a running launch as Prometheus scrapes them: the last line of metrics.jsonl.

The endpoint's thread reads while the training writes, so everything is replaced, never changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from megatron_math.watch.prometheus import Family

PREFIX = "megatron_math_"


class Exposed:
    """What is known now. `validation`: held-out losses by source."""

    def __init__(
        self,
        run: str,
        restarts: int,
        events: Mapping[str, int],
        last_save: Callable[[], float | None],
    ) -> None:
        """events: counts by kind, which grow; last_save: unix time of the newest checkpoint."""
        self._labels = {"run": run}
        self._restarts, self._events, self._last_save = restarts, events, last_save
        self._iteration: int | None = None
        self._num_iterations: int | None = None
        self._row: Mapping[str, Any] = {}
        self._phase_seconds: Mapping[str, float] = {}
        self._skipped = 0
        self.validation: Mapping[str, float] = {}

    def loaded(self, iteration: int, num_iterations: int) -> None:
        self._iteration, self._num_iterations = iteration, num_iterations

    def step(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        seconds = dict(self._phase_seconds)
        for name, value in (*row["phases_ms"].items(), *row.get("between_ms", {}).items()):
            seconds[name] = seconds.get(name, 0.0) + value / 1000
        self._phase_seconds = seconds
        self._skipped += bool(row.get("skipped"))
        self._iteration, self._row = row["iteration"], row

    def families(self) -> list[Family]:
        """All metrics; those that are not known have no value."""
        row = self._row
        seconds = {key: value / 1000 for key, value in row.items() if key in SECONDS}
        single = [
            ("iteration", "Steps done since the run began.", self._iteration),
            ("iterations_planned", "Steps of the whole plan.", self._num_iterations),
            ("restarts", "Launches of this run before this one.", self._restarts),
            ("last_checkpoint_time_seconds", "Unix time of the newest checkpoint.", self._saved()),
            *((name, told, row.get(key)) for key, (name, told) in PLAIN.items()),
            *((name, told, seconds.get(key)) for key, (name, told) in SECONDS.items()),
        ]
        sources = {key[5:]: value for key, value in row.items() if key.startswith("loss/")}
        memory = {key[5:-6]: value for key, value in row.items() if key.startswith("peak_")}
        by_label = [
            ("loss_by_source", "Training loss of the last step.", "source", sources),
            ("validation_loss", "Held-out loss.", "source", self.validation),
            ("memory_peak_bytes", "Of the fullest process so far.", "kind", memory),
        ]
        counters: list[tuple[str, str, str, Mapping[str, float]]] = [
            ("phase_seconds_total", "Of this launch's last rank.", "phase", self._phase_seconds),
            ("events_total", "Alerts of this launch.", "event", dict(self._events)),
        ]
        skipped = [(self._labels, float(self._skipped))]
        return [
            *(Family(PREFIX + n, "gauge", told, [(self._labels, v)]) for n, told, v in single),
            *(Family(PREFIX + n, "gauge", told, self._by(k, v)) for n, told, k, v in by_label),
            *(Family(PREFIX + n, "counter", told, self._by(k, v)) for n, told, k, v in counters),
            Family(PREFIX + "skipped_steps_total", "counter", "Of this launch.", skipped),
        ]

    def _by(
        self, label: str, values: Mapping[str, float]
    ) -> list[tuple[Mapping[str, str], float | None]]:
        return [(self._labels | {label: name}, value) for name, value in values.items()]

    def _saved(self) -> float | None:
        try:
            return self._last_save()
        except OSError:
            return None


PLAIN = {
    "consumed_tokens": ("consumed_tokens", "Tokens that carried loss, since the run began."),
    "consumed_samples": ("consumed_samples", "Samples trained on, since the run began."),
    "lm loss": ("loss", "Training loss of the last step."),
    "grad-norm": ("grad_norm", "Gradient norm of the last step, before clipping."),
    "learning-rate": ("learning_rate", "Learning rate of the last step."),
    "tokens_per_second": ("tokens_per_second", "Of the last step, padding included."),
    "tflops": ("tflops", "TFLOP/s of a process in the last step, attention counted half."),
    "mfu": ("mfu", "Share of the dense peak in the last step."),
    "time": ("last_step_time_seconds", "Unix time of the last step's end."),
}
"""Key of metrics.jsonl -> name and meaning of a metric with the same value."""
SECONDS = {
    "elapsed_ms": ("step_seconds", "Of the last step."),
    "data_wait_ms": ("data_wait_seconds", "How long the last step waited for data."),
}
"""The same, where the file has milliseconds."""
