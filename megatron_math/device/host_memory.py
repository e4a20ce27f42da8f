"""The C library's memory, in a process that asks for the same large blocks in every step.

glibc gives a block of more than 32 MiB back to the kernel when it is freed, and the kernel hands
out zeroed pages one by one when the next step asks for it again.
"""

import ctypes
import os

from megatron_math.base.log import log

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let freed memory stay in the process from now on. False where that cannot be had.

    Without it a step of 35 M parameters had 170,000 to 240,000 page faults and 6 % of its processor
    seconds in the kernel, with it hardly any and 1.5 % (2026-11-22, 2 threads, two runs each); peak
    memory was 1 to 2 % higher. What the environment says of it counts more; another C library than
    glibc is left alone.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        log.debug("no mallopt in this C library: freed memory goes back to the kernel")
        return False
    largest = 2**31 - 1  # of a C int
    return bool(mallopt(M_MMAP_THRESHOLD, largest) and mallopt(M_TRIM_THRESHOLD, largest))
