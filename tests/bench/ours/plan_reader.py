"""Our plan on one index: open it, read random samples. WHAT is `open` or `read`.

Prints JSON; imports are not timed. Torch is not loaded.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader


def resident_bytes(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["open", "read"])
    parser.add_argument("--plan", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    before, begun = resident_bytes("VmRSS"), time.perf_counter()
    reader = PlanReader(load_plan(args.plan))
    first = reader.batch([0])
    opened = time.perf_counter() - begun
    assert first.tokens_BS.shape == (1, reader.sequence_length)
    assert "torch" not in sys.modules
    grown = resident_bytes("VmHWM") - before
    said = {"seconds": opened, "grown_bytes": grown}
    if args.what == "read":
        said = read(reader, args)
    print(json.dumps(said))


def read(reader: PlanReader, args: argparse.Namespace) -> dict[str, float]:
    chosen = np.random.default_rng(7).integers(0, reader.num_samples, 1 << 22)
    begun, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < args.seconds:
        batch = reader.batch(chosen[count : count + args.batch])
        count += len(batch.tokens_BS)
    return {"seconds": seconds, "samples": count}


if __name__ == "__main__":
    main()
