"""What a process can be asked about itself: the time, its peak memory, its device's peak, a trace.

On a GPU time is taken by events in its own queue: an event costs microseconds and nobody waits for
the GPU, and what lies between two of them is what the GPU did, not what the host handed it.
"""

import contextlib
import time
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from megatron_math.device.open import Device
from megatron_math.device.peak import peak_flops

Tool = Literal["torch", "nsys"]


class Clock(Protocol):
    """Marks in time, compared later."""

    def mark(self) -> Any: ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks. May wait until the device has come to `end`."""


class HostClock:
    """For work that is done when its call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class StreamClock:
    """For a GPU: marks stand in the current stream, among the kernels."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def clock_of(device: Device) -> Clock:
    """The clock that tells how long work on `device` takes."""
    return StreamClock() if device.kind == "cuda" else HostClock()


def peak_memory(device: Device) -> dict[str, int]:
    """Bytes at most in use until now: of the GPU (as tensors, and as taken from the driver), or of
    this process (VmHWM; `ru_maxrss` would begin with that of the process which started it)."""
    if device.kind == "cuda":
        stats = torch.cuda.memory.memory_stats_as_nested_dict(device.torch_device)
        return {
            "peak_allocated_bytes": stats["allocated_bytes"]["all"]["peak"],
            "peak_reserved_bytes": stats["reserved_bytes"]["all"]["peak"],
        }
    status = Path("/proc/self/status").read_bytes()
    return {"peak_process_bytes": int(status.split(b"VmHWM:", 1)[1].split(b"kB", 1)[0]) * 1024}


def device_peak(device: Device, precision: str) -> tuple[str, float | None]:
    """(what the device is called, its dense FLOP/s in `precision`); None: that is not known."""
    if device.kind == "cpu":
        return "CPU", None
    name = torch.cuda.get_device_name(device.torch_device)
    return name, peak_flops(name, precision)


class Recorder:
    """A trace of what happens between `start` and `stop`.

    tool: torch writes a trace itself; nsys is an outer program that is told when to record, and a
    GPU's. `range(name)` names a part of the trace.
    """

    def __init__(self, device: Device, tool: Tool) -> None:
        assert tool == "torch" or device.kind == "cuda", "only a GPU tells nsys"
        self._is_torch = tool == "torch"
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.kind == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._torch = torch.profiler.profile(activities=activities) if self._is_torch else None

    def start(self) -> None:
        if self._torch is not None:
            self._torch.start()
        else:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()

    def stop(self, path: Path) -> None:
        """End the recording; torch's is written to `path`, which ends in .json.gz."""
        if self._torch is not None:
            self._torch.stop()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._torch.export_chrome_trace(str(path))
        else:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()

    def range(self, name: str) -> contextlib.AbstractContextManager[Any]:
        if self._is_torch:
            return torch.profiler.record_function(name)
        return torch.cuda.nvtx.range(name)
