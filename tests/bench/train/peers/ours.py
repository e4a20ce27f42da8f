"""One rank of the real `megatron-math train`, and the rate of a large product beside it.

The rate is that of torch.mm in the same process on the same threads, before and after training.
"""

import json
import os
import time

import torch
from case import given

from megatron_math.base.road import Road
from megatron_math.device.start import free_port
from megatron_math.train.run import run

SIDE = 2048
SECONDS = 1.5


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of products of SIDE x SIDE, the median of some seconds' worth."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        begun = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / sorted(times)[len(times) // 2]


def main() -> None:
    case, _ = given()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.dtype]
    before = matmul_rate(dtype)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    overrides = [f"precision.dtype={case.dtype}"]
    run(Road.load(case.folder / "road.yaml", overrides, case.folder / "runs"))
    rates = {"before": before, "after": matmul_rate(dtype)}
    print("MATMUL " + json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)
