"""A pool of warm, killable processes: one function, many items, a deadline for each.

Every worker is a *keeper* process (`python -m megatron_math.sandbox.keeper module:function`) that
has imported the function and forks a child for the real work. A child that passes its deadline,
dies or grows too large is killed and replaced by a fork, which costs milliseconds where a fresh
import of the function's libraries costs up to a second. Keepers talk to us in lines of JSON, so
nothing that a child writes is ever executed here.

It holds off hangs, crashes and memory, not an adversary with code to run: that is `python.py`.
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn

from megatron_math.base.log import log

State = Literal["done", "error", "timeout", "died"]
# A keeper that does not even report its child's timeout is itself stuck (a machine that swaps, a
# stopped process); after this many further seconds it is killed too.
GRACE_SECONDS = 10.0
START_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of one item: `value` when done, `reason` otherwise."""

    state: State
    value: Any = None
    reason: str = ""
    seconds: float = 0.0


class KeeperGoneError(Exception):
    """The keeper process ended, was killed or stopped answering."""


class Keeper:
    """Our end of one keeper process."""

    def __init__(self, function: str, limit_seconds: float, memory_bytes: int) -> None:
        command = [sys.executable, "-m", "megatron_math.sandbox.keeper"]
        command += [function, repr(limit_seconds), str(memory_bytes)]
        self._limit_seconds = limit_seconds
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that the keeper and its child can be killed as a group
            # the keeper finds what this process finds, from wherever that was started
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._buffer = b""
        greeting = self._read_line(START_SECONDS)
        assert greeting == {"state": "ready"}, greeting

    def run(self, item: Any) -> Outcome:
        """Send one JSON-able item, wait for its outcome. Raises KeeperGoneError."""
        started = time.monotonic()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(item).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self.close()
            raise KeeperGoneError(str(error)) from None
        answer = self._read_line(self._limit_seconds + GRACE_SECONDS)
        seconds = time.monotonic() - started
        return Outcome(answer["state"], answer.get("value"), answer.get("reason", ""), seconds)

    def close(self) -> None:
        """Kill keeper and child, wait until the keeper is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _read_line(self, limit_seconds: float) -> Any:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + limit_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._give_up(f"no answer for {limit_seconds} s")
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    self._give_up("the process ended")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _give_up(self, reason: str) -> NoReturn:
        self.close()
        raise KeeperGoneError(f"{reason} (exit status {self._process.returncode})")


class Pool:
    """`with Pool("package.module:function") as pool: pool.map(items)`.

    function: importable, takes one JSON value, returns one JSON value.
    limit_seconds: wall clock an item may take. memory_bytes: address space of a child.
    Keepers start at the first use and stay warm until `close`.
    """

    def __init__(
        self,
        function: str,
        *,
        workers: int = 1,
        limit_seconds: float = 5.0,
        memory_bytes: int = 2 << 30,
    ) -> None:
        assert workers >= 1, workers
        assert limit_seconds > 0, limit_seconds
        self._arguments = (function, limit_seconds, memory_bytes)
        self._keepers: list[Keeper | None] = [None] * workers
        self._lock = threading.Lock()  # one map at a time; callers in other threads wait

    def map(self, items: Iterable[Any]) -> list[Outcome]:
        """Run every item; outcomes in the order of the items. Never raises for an item."""
        with self._lock:
            return self._map(list(items))

    def _map(self, items: list[Any]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(items)
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(items)):
            waiting.put(index)
        failures: list[BaseException] = []

        def serve(place: int) -> None:
            try:
                while not failures:
                    index = waiting.get_nowait()
                    outcomes[index] = self._run(place, items[index])
            except queue.Empty:
                return
            except BaseException as error:  # noqa: BLE001 - carried to the calling thread
                failures.append(error)

        places = range(min(len(self._keepers), len(items)))
        threads = [threading.Thread(target=serve, args=(place,)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert all(outcome is not None for outcome in outcomes)
        return [outcome for outcome in outcomes if outcome is not None]

    def _run(self, place: int, item: Any) -> Outcome:
        keeper = self._keepers[place]
        if keeper is None:
            keeper = self._keepers[place] = Keeper(*self._arguments)
        try:
            return keeper.run(item)
        except KeeperGoneError as error:
            self._keepers[place] = None
            log.warning("a worker for %s was replaced: %s", self._arguments[0], error)
            return Outcome("died", reason=str(error))

    def close(self) -> None:
        """End all processes of the pool; a later `map` starts fresh ones."""
        for place, keeper in enumerate(self._keepers):
            if keeper is not None:
                keeper.close()
                self._keepers[place] = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
