"""What a thread beside the training can know of this rank's part in the world's messages."""

import datetime
import sys
import threading

import torch.distributed as dist
from torch.distributed import distributed_c10d

WAITS_IN = (
    "torch/distributed/distributed_c10d.py",
    "megatron/core/pipeline_parallel/p2p_communication.py",
    "megatron/core/distributed/param_and_grad_buffer.py",
)
"""Files in which a main thread that waits for a message has its innermost frame."""


def own_store(timeout_seconds: float) -> dist.Store:
    """A connection of its own to where the ranks met: one that waits holds no other up."""
    store = distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):
        return store  # of a world of one, in this process
    timeout = datetime.timedelta(seconds=timeout_seconds)
    return dist.TCPStore(
        store.host, store.port, is_master=False, wait_for_workers=False, timeout=timeout
    )


def collectives_begun() -> dict[str, int]:
    """How many collectives this process has begun, by group; for any thread.

    On a GPU that is what the host has handed over, not what the GPU has come to.
    """
    begun: dict[str, int] = {}
    for group, name in list(distributed_c10d._world.pg_names.items()):
        if group.size() < 2:
            continue
        try:
            begun[str(name)] = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        except RuntimeError:  # a backend that does not count
            continue
    return begun


def is_waiting() -> bool:
    """Whether the main thread is inside a collective or a receive of a message."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return frame is not None and frame.f_code.co_filename.endswith(WAITS_IN)
