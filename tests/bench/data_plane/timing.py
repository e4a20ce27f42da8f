"""Run whole commands one after another, and say how long they took and how much memory they held.

This process stays small and loads no data: a child's ru_maxrss is never below its parent's memory.
"""

import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[3]
MEMORY_INTERVAL_S = 0.05
LIMIT_S = 1800
# Left at each program's own default, whatever the caller's shell says.
UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS")


class Skip(Exception):  # noqa: N818 - no error, a reason
    """A measure that cannot be taken here; the text says why."""


@dataclass(frozen=True)
class Run:
    """A finished command. `said`: the last line of its output, where that is a JSON object.

    peak_bytes: the largest of the biggest process's ru_maxrss and of the sampled sum over the
    process tree (Pss: pages that processes share are counted once); 0 where it was not asked for.
    """

    seconds: float
    said: dict[str, Any]
    peak_bytes: int = 0


def run(command: Sequence[str | Path], *, memory: bool = False) -> Run:
    """Run to the end; RuntimeError with the end of its output when it fails or hangs."""
    argv = [str(word) for word in command]
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    environment["HF_HUB_OFFLINE"] = "1"
    begun = time.perf_counter()
    process = subprocess.Popen(
        argv,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    guard = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    watch = _TreeMemory(process.pid) if memory else None
    assert process.stdout is not None
    try:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        seconds = time.perf_counter() - begun
        guard.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = max(watch.stop(), usage.ru_maxrss * 1024) if watch else 0
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}:\n{output[-3000:]}")
    last = output.strip().rsplit("\n", 1)[-1]
    return Run(seconds, json.loads(last) if last.startswith("{") else {}, peak)


class _TreeMemory:
    """Samples the proportional set size of a process and all below it, in a thread."""

    def __init__(self, pid: int) -> None:
        self._root, self._peak = psutil.Process(pid), 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(MEMORY_INTERVAL_S):
            try:
                tree = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            self._peak = max(self._peak, sum(map(_pss, tree)))

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak


def _pss(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended
    return 0


@dataclass
class Pairs:
    """Values of both sides, pair by pair (seconds unless said); ratio: how often ours is better."""

    peer: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def ratio(self) -> dict[str, Any]:
        ratios = [peer / ours for peer, ours in zip(self.peer, self.ours, strict=True)]
        return {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "pairs": len(ratios),
        }

    def to_json(self) -> dict[str, Any]:
        return {"ratio": self.ratio(), "peer": self.peer, "ours": self.ours}


def alternate(num_pairs: int, peer: Callable[[], float], ours: Callable[[], float]) -> Pairs:
    """peer, ours, peer, ours, ...; what one wrote is on disk before the other begins."""
    pairs = Pairs()
    for _ in range(num_pairs):
        for side, values in ((peer, pairs.peer), (ours, pairs.ours)):
            os.sync()
            values.append(side())
    return pairs
