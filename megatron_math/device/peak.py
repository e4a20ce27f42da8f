"""Dense peaks of known GPUs, from the files in `gpus/`; `estimate/hardware.py` reads the rest.

Torch-free.
"""

from importlib.resources import files
from typing import Any

from megatron_math.base.config import load_yaml

GPU_FILES = files("megatron_math.device") / "gpus"


def peak_flops(called: str, precision: str) -> float | None:
    """Dense FLOP/s in `precision` (a key of `peak_flops` there) of what its driver calls `called`.

    None for a GPU that no file names letter by letter (parts of one family differ: an H100 PCIe has
    three quarters of an SXM's), and for a precision that it cannot compute in.
    """
    for file in GPU_FILES.iterdir():
        gpu: dict[str, Any] = load_yaml(file.read_text(encoding="utf-8"), file.name)
        if called in gpu.get("called", []):
            peak = gpu["peak_flops"].get(precision)
            return None if peak is None else float(peak)
    return None
