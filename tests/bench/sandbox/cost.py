"""What isolation adds to a snippet: the sandbox beside a plain fork and a fresh interpreter.

    python tests/bench/sandbox/cost.py [--rounds 60] [--record]

One worker, one snippet at a time. In every round each side runs each snippet once, in a random
order of sides; a difference is taken within a round. The plain fork has the same modules loaded,
reads the same code and returns the same output. Prints JSON; --record writes
docs/benchmarks/sandbox.md, too.
"""

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_math.sandbox.isolation import LAYERS
from megatron_math.sandbox.python import ACCEPTED, PRELOAD, PythonSandbox

REPOSITORY = Path(__file__).resolve().parents[3]
FLOOR_MS, AIM_MS = 15.0, 5.0
SNIPPETS = {
    "nothing": "pass",
    "print": "print(6 * 7)",
    "fractions": "from fractions import Fraction\nprint(sum(Fraction(1, n) for n in range(1, 60)))",
    "loop of 100,000": "x = 0\nfor i in range(100_000):\n    x += i * i % 7\nprint(x)",
    "numpy": "import numpy as np\nprint(np.linalg.solve(np.eye(4) * 3, np.arange(4.0)))",
    "sympy": "import sympy as s\nx = s.symbols('x')\nprint(s.solve(x**3 - 6*x**2 + 11*x - 6))",
    "an error": "def f(x):\n    return 1 / x\nf(0)",
}
Side = Callable[[str], object]


class PlainFork:
    """Our end of plain_fork.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("plain_fork.py")), *PRELOAD]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, **pipes, stderr=subprocess.DEVNULL, env=environment
        )
        assert self._process.stdout is not None
        assert self._process.stdout.read(1) == b"+"

    def run(self, code: str) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("=Q", len(code)) + code.encode())
        self._process.stdin.flush()
        length = struct.unpack("=Q", self._process.stdout.read(8))[0]
        return self._process.stdout.read(length)

    def close(self) -> None:
        self._process.communicate()


def interpreter(code: str) -> bytes:
    """A fresh interpreter, as scripts often do it."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stdout


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds: side -> snippet -> a value a round."""
    plain = PlainFork()
    with (
        PythonSandbox(1) as sandbox,
        PythonSandbox(1, without=LAYERS, unprotected=ACCEPTED) as bare,
    ):
        sides: dict[str, Side] = {
            "plain fork": plain.run, "sandbox": sandbox.run, "sandbox, no layer": bare.run,
        }  # fmt: skip
        times: dict[str, dict[str, list[float]]] = {}
        for number in range(-3, rounds):  # the first three are not counted
            for name, code in SNIPPETS.items():
                for side, run in random.sample(list(sides.items()), len(sides)):
                    taken = _milliseconds(run, code)
                    if number >= 0:
                        times.setdefault(side, {}).setdefault(name, []).append(taken)
                if number >= 0 and number % 10 == 0:
                    fresh = times.setdefault("fresh interpreter", {})
                    fresh.setdefault(name, []).append(_milliseconds(interpreter, code))
    plain.close()
    return times


def _milliseconds(run: Side, code: str) -> float:
    started = time.perf_counter()
    run(code)
    return (time.perf_counter() - started) * 1000


def added(times: dict[str, dict[str, list[float]]], side: str, name: str) -> list[float]:
    """What the side takes more than the plain fork, round by round."""
    pairs = zip(times[side][name], times["plain fork"][name], strict=True)
    return [one - plain for one, plain in pairs]


def interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    medians = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def page(times: dict[str, dict[str, list[float]]], rounds: int) -> str:
    """The page's text."""
    rows = []
    for name in SNIPPETS:
        extra = added(times, "sandbox", name)
        low, high = interval(extra)
        medians = [statistics.median(times[side][name]) for side in
                   ("plain fork", "sandbox", "sandbox, no layer", "fresh interpreter")]  # fmt: skip
        cells = " | ".join(f"{value:.1f}" for value in medians)
        rows.append(
            f"| {name} | {cells} | {statistics.median(extra):.1f} ({low:.1f} to {high:.1f}) |"
        )
    every = [value for name in SNIPPETS for value in added(times, "sandbox", name)]
    layers = [value for name in SNIPPETS for value in
              (a - b for a, b in zip(times["sandbox"][name], times["sandbox, no layer"][name],
                                     strict=True))]  # fmt: skip
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    facts = {
        "MEDIAN": f"{statistics.median(every):.1f}",
        "INTERVAL": "{:.1f} to {:.1f}".format(*interval(every)),
        "LAYERS": f"{statistics.median(layers):.1f}",
        "FLOOR": f"{FLOOR_MS:g}",
        "AIM": f"{AIM_MS:g}",
        "ROUNDS": str(rounds),
        "ROWS": "\n".join(rows),
        "COMMIT": commit,
        "DATE": datetime.date.today().isoformat(),
        "MACHINE": f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end",
    }
    text = Path(__file__).with_name("page.md").read_text()
    for name, value in facts.items():
        text = text.replace(f"@{name}@", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    times = measure(arguments.rounds)
    every = [value for name in SNIPPETS for value in added(times, "sandbox", name)]
    figures = {side: {name: round(statistics.median(values), 2) for name, values in row.items()}
               for side, row in times.items()}  # fmt: skip
    print(json.dumps({"median_ms": figures, "added_ms": round(statistics.median(every), 2)}))
    if arguments.record:
        target = REPOSITORY / "docs" / "benchmarks" / "sandbox.md"
        target.write_text(page(times, arguments.rounds))


if __name__ == "__main__":
    main()
