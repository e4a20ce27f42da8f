"""Freed memory stays with the process when asked to, and goes back to the kernel otherwise."""

import os
import subprocess
import sys

import pytest

FREE_AND_TAKE = """
import resource, sys, torch
from megatron_math.device.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# An aligned block wants a little more than a freed one of its size: the first times are dear.
print(kept, min(faults() for _ in range(20 if kept else 3)))
"""


def told(how: str, **environment: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", FREE_AND_TAKE, how],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_block_that_is_taken_again_costs_no_page_faults():
    assert told("keep") == ("True", pytest.approx(0, abs=200))
    kept, faults = told("leave")
    assert kept == "None"
    assert faults > 5_000  # of 16,384 pages, unless the kernel hands out huge ones


def test_what_the_environment_says_of_it_counts_more():
    assert told("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
