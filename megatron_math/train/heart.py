"""Signs of life of this rank beside the training, and what follows when a rank gives none.

A thread writes a `Beat` every second to the store where the ranks met, over a connection of its
own. On the first and the last rank it reads those of all, and another thread, which asks nobody
for anything, judges them: so the last rank sees a frozen first one (in which the store may lie) and
the first one a frozen last one. When the run does not come on, each rank writes the stacks of its
threads to a file and leaves with 1.
"""

import contextlib
import faulthandler
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

from megatron_math.base.errors import EXIT_FAILED
from megatron_math.base.log import log
from megatron_math.device.open import Device
from megatron_math.device.peers import collectives_begun, is_waiting, own_store
from megatron_math.train.gauge import Phases
from megatron_math.train.guard_config import GuardConfig
from megatron_math.watch.beats import Beat, Heard
from megatron_math.watch.hang import Finding, Judge, Limits
from megatron_math.watch.launches import process_name, state_of
from megatron_math.watch.stragglers import Stragglers

STACKS = "stacks"
"""In the run folder; a file for each rank."""
LINGER_BEATS = 3
"""Before a rank leaves: the others read in its store why."""
READ_SECONDS_PER_RANK = 1e-3
"""Between two readings of all beats; one takes 7 microseconds of a rank (1,000 made-up ones)."""
LAST_WORDS_SECONDS = 20.0
JOIN_SECONDS = 5.0
SUSPENDED_SECONDS = 30.0
"""Between two looks of the judge: nothing but a stopped process leaves so many out."""
_STATES = {"T": "was stopped by a signal", "t": "is held by a debugger", "Z": "has ended",
           "D": "waits for a disk or a device"}  # fmt: skip


class Speaker(Protocol):
    """Who tells those outside: the Watch, or its Deputy."""

    def note(self, event: str, message: str) -> None: ...

    def end(self, cause: str) -> None: ...

    def close(self) -> None: ...


class Heart:
    """Of one rank, from its construction, which is collective, to `close`."""

    def __init__(
        self,
        config: GuardConfig,
        device: Device,
        phases: Phases,
        folder: Path,
        speaker: Callable[[], Speaker | None],
        *,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """speaker: asked for on the first and the last rank, when there is something to tell."""
        assert config.heartbeat_seconds is not None
        self._config, self._device, self._phases, self._folder = config, device, phases, folder
        self._speaker, self._leave = speaker, leave
        self._interval = config.heartbeat_seconds
        self._is_monitor = device.rank in (0, device.world - 1)
        name = device.from_first_rank(lambda: uuid.uuid4().hex[:8])
        self._keys = [f"beats/{name}/{rank}" for rank in range(device.world)]
        self._verdict_key = f"beats/{name}/verdict"
        self._store: dist.Store | None = own_store(max(1.0, config.frozen_seconds))
        self._lock = threading.Lock()
        self._judge = self._new_judge()
        self._stragglers = Stragglers(config.straggler_share)
        self._place = (0, phases.num_borders)
        self._heard: list[Heard] = []
        self.suspended_seconds = 0.0
        """So long this process has stood still as a whole."""
        self._pace: dict[str, float] = {}
        self._compared = self._pace
        self._saver_writes: Callable[[], bool] = lambda: False
        self._verdict: str | None = None
        self._number, self._is_leaving = 0, False
        self._host, self._process = socket.gethostname(), process_name()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._exchange()  # so that every rank's key is there
        device.barrier()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._run_beats, "beats"), (self._run_judge, "judge"))
        ]

    def start(self, iteration: int, saver_writes: Callable[[], bool]) -> None:
        """The loop begins, behind `iteration`. saver_writes: a checkpoint is not written yet."""
        self._place, self._saver_writes = (iteration, self._phases.num_borders), saver_writes
        for thread in self._threads:
            thread.start()

    def stepped(self, iteration: int, seconds: float, pace: dict[str, float]) -> None:
        """Iteration `iteration` ended, so long after the one before. pace: as in `Beat`."""
        self._place, self._pace = (iteration, self._phases.num_borders), pace
        self._judge.stepped(seconds)

    def close(self) -> None:
        """The others need not wait for a sign any more."""
        if self._closing.is_set():
            return
        self._closing.set()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)
        if not self._threads[0].is_alive():
            with contextlib.suppress(RuntimeError):
                self._exchange(is_over=True)
        self._store = None

    def _new_judge(self) -> Judge:
        config, device = self._config, self._device
        limits = Limits(config.frozen_seconds, config.stuck_seconds, config.hang_seconds)
        is_agents = "TORCHELASTIC_RUN_ID" in os.environ
        where = "the launcher's store" if is_agents else "the store on rank 0"
        return Judge(
            limits,
            where,
            store_rank=None if is_agents or device.world == 1 else 0,
            state=lambda beat: _STATES.get(state_of(beat.process) or "", ""),
        )

    def _beat(self, *, is_over: bool) -> Beat:
        self._number += 1
        iteration, border = self._place
        return Beat(
            rank=self._device.rank,
            number=self._number,
            host=self._host,
            process=self._process,
            iteration=iteration,
            phase=self._phases.inside,
            num_borders=self._phases.num_borders - border,
            collectives=collectives_begun(),
            is_waiting=is_waiting(),
            is_writing=self._saver_writes(),
            is_over=is_over,
            pace=self._pace,
        )

    def _exchange(self, *, is_over: bool = False) -> None:
        """Write this rank's beat, ask for a verdict, and read all beats where they are judged."""
        if self._store is None:
            self._store = own_store(max(1.0, self._config.frozen_seconds))
        store = self._store
        store.set(self._keys[self._device.rank], self._beat(is_over=is_over).encode())
        if self._is_leaving and self._verdict is not None:
            store.set(self._verdict_key, self._verdict)
        elif store.check([self._verdict_key]):
            self._verdict = store.get(self._verdict_key).decode()
        if is_over:
            return
        heard: list[Heard] = []
        if self._is_monitor and self._threads:
            heard = [Heard(text) for text in store.multi_get(self._keys)]
        with self._lock:
            self._judge.hear(heard)
            self._heard = heard

    def _compare(self) -> None:
        """Decoding all beats takes time: only when this rank, too, has something new."""
        if self._pace is self._compared or not self._heard or not self._device.is_last_rank:
            return
        pace = self._pace
        messages = self._stragglers.compare([one.beat for one in self._heard])
        if messages is not None:
            self._compared = pace
            for message in messages:
                self._tell(Finding("straggler", (), message))

    def _run_beats(self) -> None:
        interval = self._interval
        if self._is_monitor:  # often enough to be in time, seldom enough to cost little
            reading = max(interval / 2, READ_SECONDS_PER_RANK * self._device.world)
            interval = min(reading, self._config.frozen_seconds / 2)
        while not self._closing.wait(interval):
            try:
                self._exchange()
            except RuntimeError as error:  # of the store: the judge sees that it does not answer
                log.debug("no beat: %s", error)
                self._store = None

    def _run_judge(self) -> None:
        tick = min(self._interval, self._config.frozen_seconds) / 2
        before = time.monotonic()
        while not self._closing.wait(tick):
            now = time.monotonic()
            with self._lock:
                # A process that was stopped itself has heard nothing, and missed nothing.
                found = self._judge.look(min(now - before, 2 * tick))
                cause, frozen = self._judge.cause, self._judge.frozen
            self.suspended_seconds += now - before if now - before > SUSPENDED_SECONDS else 0.0
            before = now
            self._compare()
            speaks = self._speaks(frozen)
            for one in found:
                if speaks:
                    self._tell(one)
            if why := self._verdict or cause:
                self._end(why, speaks=speaks)
                return

    def _speaks(self, frozen: frozenset[int]) -> bool:
        last = self._device.world - 1
        return self._device.rank == last or (self._device.rank == 0 and last in frozen)

    def _tell(self, finding: Finding) -> None:
        """Beside the judge, whom a disk that hangs must not hold up."""

        def tell() -> None:
            if (speaker := self._speaker()) is not None:
                speaker.note(finding.event, finding.message)

        threading.Thread(target=tell, name="told", daemon=True).start()

    def _end(self, cause: str, *, speaks: bool) -> None:
        """Write the stacks, see that the others know, leave; a disk that hangs holds nobody."""
        self._verdict, self._is_leaving = cause, True

        def say() -> None:
            self._write_stacks(cause)
            if speaks and (speaker := self._speaker()) is not None:
                speaker.end(f"error: {cause}")
                speaker.close()

        saying = threading.Thread(target=say, name="last words", daemon=True)
        saying.start()
        time.sleep(LINGER_BEATS * self._interval)
        saying.join(LAST_WORDS_SECONDS)
        log.error("rank %d leaves: %s; its stacks are in %s", self._device.rank, cause,
                  self._stack_file)  # fmt: skip
        logging.shutdown()
        self._leave(EXIT_FAILED)

    @property
    def _stack_file(self) -> Path:
        return self._folder / STACKS / f"rank{self._device.rank}.txt"

    def _write_stacks(self, cause: str) -> None:
        try:
            self._stack_file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._stack_file, "a", encoding="utf-8") as file:
                at = time.strftime("%Y-%m-%d %H:%M:%S")
                file.write(f"{at} {self._host} {self._process}: {cause}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
        except OSError as error:
            log.error("the stacks cannot be written: %s", error)
