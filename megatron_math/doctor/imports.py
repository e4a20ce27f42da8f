"""What packages are here, found by importing them where a crash or a hang does no harm."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

SECONDS = 120.0


def import_facts(
    names: Sequence[str],
    *,
    seconds: float = SECONDS,
    environment: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """By name: version, file and more, or `error`. A crash or hang is the error of that package.

    seconds: the limit of one process, which answers for all packages until one breaks it.
    """
    facts: dict[str, dict[str, Any]] = {}
    left = list(names)
    while left:
        command = [sys.executable, "-m", "megatron_math.doctor.child", *left]
        env = dict(os.environ if environment is None else environment)
        try:
            ended = subprocess.run(command, capture_output=True, timeout=seconds, env=env)
            text, how = ended.stdout, _ending(ended.returncode)
        except subprocess.TimeoutExpired as late:
            text, how = late.stdout or b"", f"did not import within {seconds:.0f} s"
        for line in text.decode(errors="replace").splitlines():
            row = json.loads(line)
            facts[row.pop("name")] = row
            left.pop(0)
        if left:
            facts[left.pop(0)] = {"error": how}
    return facts


def _ending(code: int) -> str:
    return f"crashed with signal {-code}" if code < 0 else f"ended Python with exit code {code}"


def has(name: str) -> bool:
    """Whether a package of that name is installed; it is not imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def which_apex(search: Sequence[str] | None = None) -> Literal["none", "nvidia", "other"]:
    """PyPI's `apex` is a web toolkit of the same name; NVIDIA's comes from its own repository.

    Told by what the folder holds, and by the metadata where that does not say. search: folders to
    look in, default those of Python.
    """
    folders = [Path(p) / "apex" for p in (sys.path if search is None else search)]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        return "none"
    if (folder / "multi_tensor_apply").is_dir() or (folder / "optimizers").is_dir():
        return "nvidia"
    found = importlib.metadata.distributions(path=[str(folder.parent)])
    about = " ".join(
        str(one.metadata["Summary"]) for one in found if one.metadata["Name"].lower() == "apex"
    )
    return "nvidia" if "nvidia" in about.lower() else "other"
