"""The sides: processes that take steps by turns; what a step took, and whether losses agree."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PEERS = Path(__file__).parent / "peers"
THREADS = 2
LIMIT_S = 300  # of one step, the first with start and compilation
OUR_LINE = re.compile(r" iteration +\d+/")
OUR_METRICS = Path("runs/case/50_train/metrics.jsonl")


@dataclass(frozen=True)
class Side:
    """How a side is started, on a case and in a precision. floor and aim: of its ratio to ours."""

    title: str
    python: Path
    script: str
    flags: tuple[str, ...] = ()
    floor: float | None = None
    aim: float | None = None

    def command(self, case: Path, dtype: str) -> list[str]:
        return [*map(str, (self.python, PEERS / self.script, case)), "--dtype", dtype, *self.flags]

    def shown(self, case: Path, dtype: str) -> str:
        return " ".join(self.command(case, dtype))


@dataclass
class Steps:
    """Seconds of each optimizer step, the first from the command on; losses and norms of each."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float | None] = field(default_factory=list)


class Running:
    """A side as a process that stands still but in `step`, with all that it started.

    Its clock runs while it may run: from the line that says a step is done to the next one, without
    the time between. So whatever a loop does between two steps counts.
    """

    def __init__(self, command: Sequence[str | Path], case: Path) -> None:
        self.command, self.told = " ".join(map(str, command)), Steps()
        self._said: list[str] = []
        self._ran_on = 0.0  # behind the last line, before it stood still
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        self._resumed = time.perf_counter()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._metrics = case / OUR_METRICS

    def step(self) -> float:
        """Seconds of one more step. RuntimeError when the side ends or hangs before it."""
        if self.told.seconds:
            self._resumed = time.perf_counter() - self._ran_on
            self._signal(signal.SIGCONT)
        limit = threading.Timer(LIMIT_S, self.kill)
        limit.start()
        try:
            return self._step()
        finally:
            limit.cancel()

    def _step(self) -> float:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            done = time.perf_counter()
            if self._is_step(line):
                self._signal(signal.SIGSTOP)
                self._ran_on = time.perf_counter() - done
                self.told.seconds.append(done - self._resumed)
                return self.told.seconds[-1]
            self._said.append(line)
        raise RuntimeError(f"{self.command} ended:\n{''.join(self._said)[-3000:]}")

    def _is_step(self, line: str) -> bool:
        if line.startswith("STEP "):
            told = json.loads(line[5:])
            assert told["step"] == len(self.told.seconds) + 1, line
            self.told.losses.append(told["loss"])
            self.told.grad_norms.append(told["grad_norm"])
            return True
        if not OUR_LINE.search(line):
            return False
        row = json.loads(self._metrics.read_text().splitlines()[len(self.told.seconds)])
        self.told.losses.append(row["lm loss"])
        self.told.grad_norms.append(row["grad-norm"])
        return True

    def kill(self) -> None:
        """End it, wherever it is; for any thread, and more than once."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: int) -> None:
        """To the side and its children; `train` gives its own a process group of theirs."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                session = status.read_text().rpartition(")")[2].split()[3]
                if int(session) == self._process.pid:
                    os.kill(int(status.parent.name), number)


@contextmanager
def running(commands: dict[str, list[str]], case: Path) -> Iterator[dict[str, Running]]:
    """All of them, one after the other up to their first step; none at the end."""
    shutil.rmtree((case / OUR_METRICS).parent, ignore_errors=True)
    sides: dict[str, Running] = {}
    try:
        for name, command in commands.items():
            sides[name] = Running(command, case)
            sides[name].step()
        yield sides
    finally:
        for side in sides.values():
            side.kill()


# By precision: largest relative difference of the first loss, of any later one, of the first norm.
# Half precision is not the same half everywhere: weights in bf16 here, autocast there.
ALLOWED = {"fp32": (1e-4, 1e-3, 1e-3), "bf16": (2e-3, 2e-2, 5e-2)}


def difference(peer: Steps, ours: Steps, dtype: str) -> str | None:
    """Why the two did not compute the same, or None."""
    first, later, norm = ALLOWED[dtype]
    if len(peer.losses) != len(ours.losses):
        return f"{len(peer.losses)} steps for {len(ours.losses)}"
    for step, (theirs, own) in enumerate(zip(peer.losses, ours.losses, strict=True), 1):
        if abs(theirs / own - 1) > (first if step == 1 else later):
            return f"loss {theirs:.6f} for {own:.6f} in step {step}"
    theirs_norm, own_norm = peer.grad_norms[0], ours.grad_norms[0]
    assert own_norm is not None
    if theirs_norm is not None and abs(theirs_norm / own_norm - 1) > norm:
        return f"gradient norm {theirs_norm:.6f} for {own_norm:.6f} in step 1"
    return None


def median_and_interval(values: Sequence[float]) -> dict[str, float]:
    """The median and a 95 % bootstrap interval of it; as wide as the values below 6 of them."""
    import numpy as np

    low, high = min(values), max(values)
    if len(values) >= 6:
        drawn = np.random.default_rng(1).choice(np.asarray(values), (10_000, len(values)))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975)).tolist()
    return {
        "median": statistics.median(values), "low": low, "high": high, "pairs": len(values)
    }  # fmt: skip


def our_command(case: Path, dtype: str) -> list[str]:
    """`megatron-math train`, as a user types it."""
    words = [sys.executable, "-m", "megatron_math.cli", "train", case / "road.yaml"]
    return [str(word) for word in (*words, f"precision.dtype={dtype}", "--runs", case / "runs")]
