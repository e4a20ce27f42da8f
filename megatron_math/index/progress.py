"""How far the tokenizing is: a bar on a terminal, else a log line every so many documents."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from megatron_math.base.log import log

LOG_SECONDS = 2.0  # between two log lines at least, however fast documents come


class EncodeProgress:
    """Context manager; `advance` after each block. Total: bytes on disk, known from the start."""

    def __init__(self, label: str, total_bytes: int, done_bytes: int, log_interval: int) -> None:
        """done_bytes: by an earlier process. log_interval: documents between two log lines."""
        self.label = label
        self.num_documents = self.num_tokens = self.text_bytes = 0
        self.disk_bytes = self._done_bytes = done_bytes
        self._total_bytes = max(1, total_bytes)
        self._log_interval = log_interval
        self._next_log = log_interval
        self._started = self._last_log = time.monotonic()
        self._bar = self._task = None
        if sys.stderr.isatty():
            self._bar, self._task = _make_bar(label, self._total_bytes)

    def advance(
        self, *, disk_bytes: int, num_documents: int, num_tokens: int, text_bytes: int
    ) -> None:
        """disk_bytes: in all, the other three since the last call."""
        self.disk_bytes = disk_bytes
        self.num_documents += num_documents
        self.num_tokens += num_tokens
        self.text_bytes += text_bytes
        if self._bar is not None:
            self._bar.update(self._task, completed=self.disk_bytes, rates=self.rates())
        elif (
            self.num_documents >= self._next_log and time.monotonic() > self._last_log + LOG_SECONDS
        ):
            self._last_log = time.monotonic()
            self._next_log = (self.num_documents // self._log_interval + 1) * self._log_interval
            log.info(
                "%s: %d documents, %.0f %% of the input, %s, %.0f s left",
                self.label,
                self.num_documents,
                100 * self.disk_bytes / self._total_bytes,
                self.rates(),
                self.seconds_left(),
            )

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._started)

    def seconds_left(self) -> float:
        done = self.disk_bytes - self._done_bytes
        return self.seconds * (self._total_bytes - self.disk_bytes) / done if done else float("inf")

    def rates(self) -> str:
        return (
            f"{self.num_documents / self.seconds:,.0f} documents/s, "
            f"{self.text_bytes / self.seconds / 1e6:,.2f} MB/s, "
            f"{self.num_tokens / self.seconds:,.0f} tokens/s"
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _make_bar(label: str, total_bytes: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rates]}  left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return bar, bar.add_task(label, total=total_bytes, rates="")
