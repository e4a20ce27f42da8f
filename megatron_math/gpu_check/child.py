"""One part in a process of its own: `-m megatron_math.gpu_check.child PART SIZE FOLDER [RUNG]`.

Writes FOLDER/PART.json after each row, and as its last word whether it came to the end.
"""

import platform
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from megatron_math.base.files import write_json
from megatron_math.base.log import set_up_logging
from megatron_math.device.capacity import device_facts
from megatron_math.device.kernels import optional_kernels
from megatron_math.gpu_check import parity, speed, units
from megatron_math.gpu_check.rows import Row
from megatron_math.gpu_check.settings import Settings, in_miniature, on_gpu

PACKAGES = ("megatron-math", "megatron-core", "torch", "transformer-engine", "flash-attn")


def main(arguments: list[str]) -> int:
    part, size, folder = arguments[0], arguments[1], Path(arguments[2])
    settings = in_miniature() if size == "miniature" else on_gpu()
    signal.alarm(int(settings.limits[part]) + 30)  # should the parent be gone
    set_up_logging()
    answer: dict[str, Any] = {"rows": [], "finished": False}

    def save(rows: list[Row]) -> None:
        answer["rows"] = list(rows)
        write_json(folder / f"{part}.json", answer)

    try:
        run_part(part, settings, folder, arguments[3:], save)
    except torch.OutOfMemoryError as error:
        answer["out_of_memory"] = str(error).splitlines()[0]
    answer["finished"] = True
    save(answer["rows"])
    return 0


def run_part(part: str, settings: Settings, folder: Path, more: list[str], save: Any) -> None:
    """All rows of `part` go to `save`."""
    if part in settings.speed:
        return speed.measure(settings.speed[part], int(more[0]), save)
    with_folder = {
        "reference": parity.write_reference,
        "model": parity.check_model,
        "te": parity.check_te,
        "fp8": parity.check_fp8,
    }
    if part in with_folder:
        return with_folder[part](settings, folder, save)
    return {"machine": describe_machine, "units": units.check_units}[part](settings, save)


def describe_machine(settings: Settings, save: Any) -> None:
    """Device, versions, and which optional kernels are used and why."""
    facts: Row = {"what": "machine", **device_facts(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    save([facts])
    spec: Literal["te", "torch"] = "te" if parity.without_te() is None else "torch"
    kernels = [vars(kernel) for kernel in optional_kernels(spec)]
    facts |= {"spec": spec, "without_te": parity.without_te(), "kernels": kernels}
    save([facts])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
