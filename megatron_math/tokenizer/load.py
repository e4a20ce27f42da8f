"""Find out what kind of tokenizer a path holds, and load it."""

import logging
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.tokenizer.huggingface import HuggingFaceTokenizer
from megatron_math.tokenizer.interface import Tokenizer
from megatron_math.tokenizer.sentencepiece import SentencePieceTokenizer
from megatron_math.tokenizer.tiktoken import TikTokenizer

log = logging.getLogger(__name__)

KINDS: dict[str, type[Tokenizer]] = {
    "HuggingFaceTokenizer": HuggingFaceTokenizer,
    "SentencePieceTokenizer": SentencePieceTokenizer,
    "TikTokenizer": TikTokenizer,
}


LARGE_BYTES = 1 << 20  # of a tokenizer.json: below, all is loaded in a few hundredths of a second


def load_tokenizer(
    path: Path | str, kind: str = "auto", *, with_encoder: bool = False
) -> Tokenizer:
    """The tokenizer in a folder or file.

    kind: one of KINDS, or "auto": tokenizer.json where there is one, else a .model, whose content
    tells SentencePiece from tiktoken. with_encoder: for whoever will call `open_encoder` anyhow;
    the fast engine may then load beside the reference. Raises UserError when there is none, or none
    of that kind, or nothing says which token ends a document.
    """
    path = Path(path)
    if kind != "auto" and kind not in KINDS:
        raise UserError(f"unknown tokenizer type '{kind}'; known: {', '.join(KINDS)}")
    if not path.exists():
        raise UserError(f"the tokenizer {path} does not exist; give a folder or a file")
    file = _file_in(path, kind) if path.is_dir() else path
    loader = KINDS[_kind_of(file) if kind == "auto" else kind]
    if with_encoder and loader is HuggingFaceTokenizer and file.stat().st_size >= LARGE_BYTES:
        return _load_both(file)
    return loader(file)  # type: ignore[call-arg]


def _load_both(file: Path) -> HuggingFaceTokenizer:
    """Reference and fast engine at once. 128,000 tokens: 1.2 s for 1.8 (2026-11-22)."""
    # Imported here: nobody else needs the engine, and few need a process.
    from megatron_math.tokenizer.gigatoken import NotUsable, load_engine
    from megatron_math.tokenizer.reference_process import ReferenceProcess

    if len(os.sched_getaffinity(0)) < 2:
        return HuggingFaceTokenizer(file)
    try:
        reference = ReferenceProcess(file)
        engine = None
        with suppress(NotUsable):  # open_encoder says why
            engine = load_engine(file.read_bytes())
        tokenizer = reference.tokenizer()
    except (EOFError, OSError) as error:
        log.warning("no process for the reference tokenizer (%r); it is loaded here", error)
        return HuggingFaceTokenizer(file)
    tokenizer.checker, tokenizer.loaded_engine = reference, engine
    reference.here = partial(tokenizer.open_encoder, "reference")
    return tokenizer


def _file_in(folder: Path, kind: str) -> Path:
    as_json, models = folder / "tokenizer.json", sorted(folder.glob("*.model"))
    if as_json.is_file() and kind in ("auto", "HuggingFaceTokenizer"):
        return as_json
    if kind != "HuggingFaceTokenizer":
        if folder / "tokenizer.model" in models:
            return folder / "tokenizer.model"
        if len(models) == 1:
            return models[0]
    wanted = {"auto": "tokenizer.json or *.model", "HuggingFaceTokenizer": "tokenizer.json"}
    found = sorted(entry.name for entry in folder.iterdir())[:12]
    raise UserError(
        f"the folder {folder} holds no one {wanted.get(kind, '*.model')}; it holds {found}"
    )


def _kind_of(file: Path) -> str:
    with open(file, "rb") as stream:
        head = stream.read(4096)
    if head.lstrip()[:1] == b"{":
        return "HuggingFaceTokenizer"
    first_line = head.split(b"\n", 1)[0].split()
    if len(first_line) == 2 and first_line[1].isdigit():
        return "TikTokenizer"
    return "SentencePieceTokenizer"  # refuses in its turn what is not one
