"""Imports packages one after the other and prints a JSON line for each: `-m ... child NAME...`.

In a process of its own, since a broken package may crash or hang. `kernels=SPEC` is no package: it
prints the layer spec and the optional kernels that a run would take.
"""

import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import sys
from typing import Any


def torch_facts(torch: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "gpus": [],
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nccl": None,
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    }
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    if torch.cuda.is_available():
        facts["gpus"] = [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ]
        side = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        facts["multiplies"] = float((side @ side)[0, 0]) == 64.0
    return facts


def kernel_facts(spec: Any) -> dict[str, Any]:
    from megatron_math.base.log import log
    from megatron_math.device.kernels import optional_kernels
    from megatron_math.model.build import choose_spec

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    chosen = choose_spec(spec)
    return {
        "why": lines[-1],
        "kernels": [vars(kernel) for kernel in optional_kernels(chosen)],
    }


def answer(name: str) -> dict[str, Any]:
    if name.startswith("kernels="):
        return kernel_facts(name.partition("=")[2])
    module = importlib.import_module(name)
    version = getattr(module, "__version__", "")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = version or importlib.metadata.version(name)
    facts = {"version": str(version), "file": module.__file__}
    return facts | (torch_facts(module) if name == "torch" else {})


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is not the answer
    for name in sys.argv[1:]:
        try:
            facts = answer(name)
        except BaseException as error:  # noqa: BLE001 - packages raise anything, SystemExit too
            facts = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        out.write(json.dumps({"name": name, **facts}) + "\n")
        out.flush()
    out.flush()
    os._exit(0)  # threads and exit handlers of a broken package have no say


if __name__ == "__main__":
    main()
