"""How far the tokenizing is: a bar on a terminal, else a log line every so many documents."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_math.base.log import log


class EncodeProgress:
    """Context manager; `advance` after each block. Total: bytes on disk, known from the start."""

    def __init__(self, label: str, total_bytes: int, log_interval: int) -> None:
        """log_interval: documents between two log lines."""
        self.label = label
        self.num_documents = self.num_tokens = self.text_bytes = self.disk_bytes = 0
        self._total_bytes = max(1, total_bytes)
        self._log_interval = log_interval
        self._next_log = log_interval
        self._started = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[rates]}  left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._shows_bar = console.is_terminal
        self._task = self._bar.add_task(label, total=self._total_bytes, rates="")

    def advance(
        self, *, disk_bytes: int, num_documents: int, num_tokens: int, text_bytes: int
    ) -> None:
        self.disk_bytes += disk_bytes
        self.num_documents += num_documents
        self.num_tokens += num_tokens
        self.text_bytes += text_bytes
        self._bar.update(self._task, completed=self.disk_bytes, rates=self.rates())
        if not self._shows_bar and self.num_documents >= self._next_log:
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
        share = self.disk_bytes / self._total_bytes
        return self.seconds * (1 - share) / share if share else float("inf")

    def rates(self) -> str:
        return (
            f"{self.num_documents / self.seconds:,.0f} documents/s, "
            f"{self.text_bytes / self.seconds / 1e6:,.2f} MB/s, "
            f"{self.num_tokens / self.seconds:,.0f} tokens/s"
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
