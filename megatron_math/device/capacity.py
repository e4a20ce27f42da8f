"""What this device is and holds: facts for reports, memory in use, and when its work is done."""

import os
import resource
from collections.abc import Mapping
from typing import Any

import torch

from megatron_math.device.open import device_kind


def device_facts() -> dict[str, Any]:
    """Kind, name, memory in bytes and number of the device; for a GPU versions below torch."""
    if device_kind() == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {"kind": "cpu", "name": "CPU", "memory_bytes": pages, "count": 1}
    about = torch.cuda.get_device_properties(0)
    return {
        "kind": "gpu",
        "name": about.name,
        "memory_bytes": about.total_memory,
        "count": torch.cuda.device_count(),
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def wait_for_device() -> None:
    """Return when everything that was started is done."""
    if device_kind() == "cuda":
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Begin a new peak of `peak_memory`; a CPU process has one for its life."""
    if device_kind() == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> Mapping[str, int]:
    """Bytes at the peak: in tensors, and held by the allocator; on a CPU the process's."""
    if device_kind() == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"allocated": peak, "reserved": peak}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def is_memory_full(error: BaseException) -> bool:
    """Whether an allocation failed: of a GPU, of torch's CPU allocator, or of Python itself."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory: you tried to allocate" in text
    )
