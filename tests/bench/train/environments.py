"""Environments of peers, made once: the one that runs this, and what a peer needs on top of it."""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

# litgpt wants an older huggingface-hub than transformers, for downloads only: so it comes alone.
LITGPT = (["lightning==2.6.6", "jsonargparse[signatures]==4.41.0"], ["--no-deps", "litgpt==0.5.13"])
ACCELERATE = (["accelerate==1.15.0"],)


def versions() -> dict[str, str]:
    """Of the peers' packages, as asked for; of transformers, as it is here."""
    asked = (word.split("==") for words in (*LITGPT, *ACCELERATE) for word in words if "==" in word)
    return {"transformers": version("transformers")} | {
        name.partition("[")[0]: number for name, number in asked
    }


class Skip(Exception):  # noqa: N818 - no error, a reason
    """A peer that cannot be had here; the text says why."""


def python_with(folder: Path, wanted: Sequence[list[str]]) -> Path:
    """The Python of an environment in `folder` with what pip is asked for. Raises Skip without it.

    It sees the packages of this environment, torch and transformers among them; what the peer
    wants in another version is its own.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        (Path(paths["purelib"]) / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        for words in wanted:
            command = [str(python), "-m", "pip", "install", "-q", *words]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Skip(f"{words[-1]} cannot be installed: {done.stderr.strip()[-300:]}")
        (folder / "ready").touch()
    return python
