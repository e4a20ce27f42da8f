"""The small files beside the weights: tokenizer, config.json, generation_config.json.

An import keeps the originals inside the checkpoint (`tokenizer/`, `hf/`); an export gives them back
unchanged as long as they still describe the model. No torch.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import fsync_file, read_json, write_json
from megatron_math.base.log import log
from megatron_math.model.config import ModelConfig
from megatron_math.tokenizer import Tokenizer, load_tokenizer

KEPT_FOLDER = "hf"
TOKENIZER_FOLDER = "tokenizer"
GENERATION_CONFIG = "generation_config.json"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)


def read_hf_config(folder: Path) -> dict[str, Any]:
    """config.json's contents. UserError when the folder is not a Hugging Face model folder."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is not a Hugging Face model folder: it has no config.json; "
            "give the folder that holds config.json and *.safetensors"
        )
    try:
        hf_config = read_json(folder / "config.json")
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON: {error}") from None
    if not isinstance(hf_config, dict):
        raise UserError(f"{folder / 'config.json'} is not a JSON object")
    return hf_config


def keep_tokenizer(source: Path, target: Path) -> bool:
    """Keep a Hugging Face folder's tokenizer files; False (and no folder) when it has none.

    The copy reads as the same tokenizer, also where config.json alone named the special tokens.
    """
    if not _copy_tokenizer_files(source, target):
        return False
    try:
        original = load_tokenizer(source)
    except UserError as error:
        log.warning("tokenizer files are kept as they are and cannot be used here: %s", error)
        return True
    if _fingerprint(target) != original.fingerprint:
        original.save(target)
    return True


def _fingerprint(folder: Path) -> str | None:
    try:
        return load_tokenizer(folder).fingerprint
    except UserError:
        return None


def _copy_tokenizer_files(source: Path, target: Path) -> bool:
    found = [source / name for name in _TOKENIZER_FILES if (source / name).is_file()]
    if found:
        target.mkdir(parents=True, exist_ok=True)
    for path in found:
        _copy(path, target / path.name)
    return bool(found)


def keep_hf_files(source: Path, checkpoint: Path) -> None:
    """Keep config.json and generation_config.json of an imported folder in the checkpoint."""
    (checkpoint / KEPT_FOLDER).mkdir()
    for name in ("config.json", GENERATION_CONFIG):
        if (source / name).is_file():
            _copy(source / name, checkpoint / KEPT_FOLDER / name)


def richest_tokenizer(tokenizer: Path, base: Path) -> Path:
    """`base` when it is the same tokenizer: what an import kept may hold more files."""
    if base.is_dir() and _fingerprint(base) == _fingerprint(tokenizer):
        return base
    return tokenizer


def write_tokenizer(source: Path, target: Path) -> Tokenizer:
    """Write the tokenizer in `source` so that transformers reads it from `target`."""
    tokenizer = load_tokenizer(source)
    ready = tokenizer.kind == "HuggingFaceTokenizer"
    if ready and (source / "tokenizer_config.json").is_file():
        _copy_tokenizer_files(source, target)
    else:
        tokenizer.save_hf(target)
    return tokenizer


def write_model_files(
    target: Path,
    config: ModelConfig,
    dtype_name: str,
    kept: Path | None,
    tokenizer: Tokenizer | None,
) -> None:
    """Write config.json and generation_config.json.

    kept: folder with the originals of an import; they are used as they are while they describe
    `config`. tokenizer: gives a model of our own its special ids. UserError when it does not fit.
    """
    original = _original_config(kept, config)
    ids: dict[str, int | None] = {}
    if tokenizer is not None:
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eod_id}
        _check_size(tokenizer, config)
    hf_config: dict[str, Any] = original or {**config.to_hf(), **ids}
    if _dtype_of(hf_config) != dtype_name:
        hf_config = {k: v for k, v in hf_config.items() if k not in ("dtype", "torch_dtype")}
        hf_config["torch_dtype"] = dtype_name  # the key that transformers 4 and 5 both read
    write_json(target / "config.json", hf_config)
    if original and kept and (kept / GENERATION_CONFIG).is_file():
        _copy(kept / GENERATION_CONFIG, target / GENERATION_CONFIG)
    elif not original:
        generation = {name: value for name, value in ids.items() if value is not None}
        write_json(target / GENERATION_CONFIG, {"_from_model_config": True, **generation})


def _original_config(kept: Path | None, config: ModelConfig) -> dict[str, Any] | None:
    if kept is None or not (kept / "config.json").is_file():
        return None
    original = read_json(kept / "config.json")
    described = ModelConfig.from_hf(original)
    multiple = config.vocab_padding_multiple  # not a fact of the published model
    described = described.model_copy(update={"vocab_padding_multiple": multiple})
    return original if described == config else None


def _dtype_of(hf_config: dict[str, Any]) -> str | None:
    return hf_config.get("dtype") or hf_config.get("torch_dtype")


def _check_size(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} ids and the model a vocabulary of "
            f"{config.vocab_size}; give the tokenizer that the model was trained with"
        )


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    fsync_file(target)
