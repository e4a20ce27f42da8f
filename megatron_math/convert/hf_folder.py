"""A Hugging Face model folder: what it holds, checked by name and shape, read by tensor, written.

Reads: config.json, model.safetensors or its shards with index.json. Writes the same. transformers
is not needed; tensors are read one at a time, so memory holds one copy of the model at most.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_math.base.errors import UserError
from megatron_math.base.files import fsync_file, read_json, write_json
from megatron_math.base.log import log
from megatron_math.convert.names import Row
from megatron_math.convert.side_files import read_hf_config
from megatron_math.model.config import ModelConfig

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

# Llama 2's published shards hold the rotary frequencies of every layer: a function of the
# configuration, which the receipt's logits cover.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class HfFolder:
    """An opened folder: its configuration and, for each tensor, its file, shape and dtype."""

    path: Path
    hf_config: dict[str, Any]
    config: ModelConfig
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU."""
        with safe_open(self.files[name], framework="pt") as shard:
            return shard.get_tensor(name)


def open_hf_folder(folder: Path, vocab_padding_multiple: int = 128) -> HfFolder:
    """Open a folder and read the headers of its shards, no tensors yet.

    Raises UserError for an unsupported architecture, missing or unreadable shards, mixed dtypes.
    """
    hf_config = read_hf_config(folder)
    try:
        config = ModelConfig.from_hf(hf_config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    config = config.model_copy(update={"vocab_padding_multiple": vocab_padding_multiple})
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for path in _shards(folder):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                    if name in files:
                        raise UserError(f"{folder}: tensor {name} is in two shards")
                    part = shard.get_slice(name)
                    files[name], shapes[name] = path, tuple(part.get_shape())
                    dtypes[name] = part.get_dtype()
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    return HfFolder(folder, hf_config, config, files, shapes, _one_dtype(folder, dtypes))


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(read_json(folder / INDEX_FILE)["weight_map"].values()))
    elif (folder / SINGLE_FILE).is_file():
        names = [SINGLE_FILE]
    else:
        found = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
        held = f"it holds {', '.join(found)} only" if found else "it holds no weights"
        raise UserError(
            f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; {held}: "
            "save the model with save_pretrained(..., safe_serialization=True)"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {INDEX_FILE} names {', '.join(missing)}, which is not there")
    return [folder / name for name in names]


def _one_dtype(folder: Path, dtypes: dict[str, str]) -> torch.dtype:
    kinds = {dtype for name, dtype in dtypes.items() if not _DERIVED.fullmatch(name)}
    if len(kinds) != 1 or not kinds <= set(_DTYPES):
        raise UserError(
            f"{folder} holds tensors of {', '.join(sorted(kinds)) or 'no dtype'}; "
            f"one of {', '.join(_DTYPES)} for all tensors is supported"
        )
    return _DTYPES[kinds.pop()]


def check_names(hf: HfFolder, table: Iterable[Row]) -> None:
    """Every tensor used, every parameter filled, every shape right; else UserError naming them."""
    expected = {
        name: shape for row in table for name, shape in zip(row.hf, row.shapes, strict=True)
    }
    extra = sorted(set(hf.files) - set(expected))
    derived = [name for name in extra if _DERIVED.fullmatch(name)]
    if derived:
        log.info("%s: %d rotary frequency tensors are recomputed", hf.path, len(derived))
    extra = [name for name in extra if name not in derived and not _is_tied_copy(hf, name)]
    missing = sorted(set(expected) - set(hf.files))
    wrong = [
        f"{name} is {list(hf.shapes[name])}, config.json says {list(shape)}"
        for name, shape in expected.items()
        if name in hf.shapes and hf.shapes[name] != shape
    ]
    faults = []
    if missing:
        faults.append(f"missing: {_listed(missing)}")
    if extra:
        faults.append(f"not used by {hf.config.architecture}: {_listed(extra)}")
    if wrong:
        faults.append(f"of another shape: {_listed(wrong)}")
    if faults:
        raise UserError(
            f"{hf.path} does not hold the tensors of {hf.config.architecture}; " + "; ".join(faults)
        )


def _is_tied_copy(hf: HfFolder, name: str) -> bool:
    """Some writers save the tied output layer again; it must then equal the embedding."""
    embedding = "model.embed_tokens.weight"
    if name != "lm_head.weight" or not hf.config.tied_embeddings or embedding not in hf.files:
        return False
    if not torch.equal(hf.read(name), hf.read(embedding)):
        raise UserError(
            f"{hf.path}: config.json ties the output layer to the embedding, and lm_head.weight "
            "differs from model.embed_tokens.weight; correct tie_word_embeddings"
        )
    return True


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def write_weights(
    folder: Path,
    table: list[Row],
    dtype: torch.dtype,
    tensors_of: Callable[[Row], list[torch.Tensor]],
    max_shard_bytes: int,
) -> list[Path]:
    """Write the table's tensors as safetensors into `folder`, sharded with an index where needed.

    `tensors_of(row)` gives the row's Hugging Face tensors; one shard is in memory at a time.
    """
    shards = _plan_shards(table, dtype.itemsize, max_shard_bytes)
    paths, weight_map = [], {}
    for number, rows in enumerate(shards, start=1):
        name = SINGLE_FILE
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for row in rows:
            for tensor_name, tensor in zip(row.hf, tensors_of(row), strict=True):
                assert tensor.dtype == dtype, (tensor_name, tensor.dtype, dtype)
                tensors[tensor_name] = tensor
        save_file(tensors, folder / name, metadata={"format": "pt"})
        fsync_file(folder / name)
        paths.append(folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    if len(shards) > 1:
        total = sum(row.num_elements for row in table) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / INDEX_FILE, index)
        paths.append(folder / INDEX_FILE)
    return paths


def _plan_shards(table: list[Row], bytes_each: int, max_shard_bytes: int) -> list[list[Row]]:
    shards: list[list[Row]] = [[]]
    filled = 0
    for row in table:
        size = row.num_elements * bytes_each
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(row)
        filled += size
    return shards
