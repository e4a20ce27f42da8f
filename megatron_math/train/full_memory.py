"""A rank whose memory is full says so in words, and in a file from which the command advises."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json
from megatron_math.base.log import log
from megatron_math.device.capacity import device_facts, is_memory_full
from megatron_math.device.gauge import peak_memory
from megatron_math.device.open import Device
from megatron_math.train.guard_config import OUT_OF_MEMORY_FILE
from megatron_math.watch.launches import Ledger

GIB = 1024**3
CHANGES = (
    "Lower train.micro_batch_size, set parallel.recompute, raise parallel.tensor, pipeline or "
    "context, train on more replicas, or train adapters (train.lora); `megatron-math estimate "
    "ROAD.yaml --save-memory` says how much each of them saves"
)


class MemoryFullError(RuntimeError):
    """The device or the machine had no more memory, in a run that had made steps before."""


@contextlib.contextmanager
def running_out_told(folder: Path, device: Device, num_steps: Callable[[], int]) -> Iterator[None]:
    """Turns an allocation that failed inside into advice, and notes it in `folder`.

    Raises UserError where this launch had made no step, since no new start mends that (exit code
    2), and MemoryFullError later, when one may.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_full(error):
            raise
        steps = num_steps()
        said = (str(error).strip().splitlines() or ["no memory"])[0]
        capacity = device_facts()
        peak = max(peak_memory(device).values())
        with contextlib.suppress(OSError):
            write_json(
                folder / OUT_OF_MEMORY_FILE,
                {
                    "time": time.time(),
                    "rank": device.rank,
                    "world": device.world,
                    "host": socket.gethostname(),
                    "device": capacity["name"],
                    "capacity_bytes": capacity["memory_bytes"],
                    "peak_bytes": peak,
                    "steps": steps,
                    "error": said,
                },
            )
        message = (
            f"out of memory on rank {device.rank} (host {socket.gethostname()}) after {steps} "
            f"step(s): {said} Of {capacity['memory_bytes'] / GIB:.1f} GiB of the "
            f"{capacity['name']} this rank held {peak / GIB:.1f} GiB at most. {CHANGES}"
        )
        if not device.is_last_rank:  # whose ledger will only say that a peer has gone
            Ledger(folder, world=0, joins=True).noted("out_of_memory", None, message)
        if steps:
            log.error("%s", message)
            raise MemoryFullError(message) from error
        raise UserError(message) from error
