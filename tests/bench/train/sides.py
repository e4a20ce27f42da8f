"""One side's run: start it, take the time of each step as it tells of it, read its losses."""

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PEERS = Path(__file__).parent / "peers"
THREADS = 2
LIMIT_S = 900
OUR_LINE = re.compile(r" iteration +(\d+)/")


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


@dataclass
class Steps:
    """Seconds from the start to the end of each optimizer step; losses and norms of each."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float | None] = field(default_factory=list)
    matmul: dict[str, float] = field(default_factory=dict)

    def seconds_a_step(self, warm_up: int) -> float:
        """Mean over all steps behind the first ones, with everything that a loop does between."""
        return (self.ends[-1] - self.ends[warm_up - 1]) / (len(self.ends) - warm_up)


def run(command: Sequence[str | Path], case: Path, *, until: int | None = None) -> Steps:
    """Run to the end, or kill it after step `until`. RuntimeError when it fails or hangs."""
    ours = case / "runs" / "case" / "50_train"
    shutil.rmtree(ours, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    os.sync()
    begun = time.perf_counter()
    process = subprocess.Popen(
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
    guard = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    steps, said = Steps(), []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            now = time.perf_counter() - begun
            said.append(line)
            if OUR_LINE.search(line):
                steps.ends.append(now)
            elif line.startswith("STEP "):
                told = json.loads(line[5:])
                assert told["step"] == len(steps.ends) + 1, line
                steps.ends.append(now)
                steps.losses.append(told["loss"])
                steps.grad_norms.append(told["grad_norm"])
            elif line.startswith("MATMUL "):
                steps.matmul = json.loads(line[7:])
            if until is not None and len(steps.ends) >= until:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return steps
        process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        guard.cancel()
        process.stdout.close()
    if process.returncode or not steps.ends:
        shown = " ".join(map(str, command))
        raise RuntimeError(f"{shown} ended with {process.returncode}:\n{''.join(said)[-3000:]}")
    if not steps.losses:
        rows = [json.loads(row) for row in (ours / "metrics.jsonl").read_text().splitlines()]
        steps.losses = [row["lm loss"] for row in rows]
        steps.grad_norms = [row["grad-norm"] for row in rows]
    return steps


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


def our_python() -> Path:
    return Path(sys.executable)
