"""A Megatron-Core checkpoint, of any layout -> a Hugging Face folder that transformers loads.

Writes config.json, safetensors, tokenizer files and generation_config.json, whole or not at all.
"""

import contextlib
import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.files import fsync_folder
from megatron_math.base.log import log
from megatron_math.checkpoint.folders import Checkpoint
from megatron_math.checkpoint.state import checkpoint_dtype, load_weights
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.core_model import core_logits, parameters_by_name
from megatron_math.convert.hf_folder import DTYPE_NAMES, write_weights
from megatron_math.convert.names import Row, name_table
from megatron_math.convert.receipt import (
    compare_logits,
    receipt_dtype,
    receipt_tokens,
    refuse_difference,
    transformers_logits,
)
from megatron_math.convert.side_files import write_model_files, write_tokenizer
from megatron_math.convert.tensors import split
from megatron_math.model.config import ModelConfig
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import merge_adapters
from megatron_math.model.lora_config import checkpoint_lora
from megatron_math.model.whole import open_model


def export_hf(
    checkpoint: Checkpoint,
    config: ModelConfig,
    target: Path,
    *,
    settings: ConvertConfig,
    tokenizer: Path | None,
    kept: Path | None,
    seed: int = 1234,
) -> dict[str, Any]:
    """Convert the checkpoint into the folder `target`, replacing it; returns the receipt.

    Weights keep their dtype, the vocabulary loses its padding, adapters are merged. tokenizer: the
    folder of the one to ship, or None. kept: the original config.json and generation_config.json of
    an import. Raises UserError, and leaves `target` as it was, when the checkpoint is of another
    architecture or the logits differ from transformers'.
    """
    dtype = checkpoint_dtype(checkpoint.folder)
    compute_dtype = receipt_dtype(dtype, settings.receipt_dtype, config)
    tokens_BS = receipt_tokens(config)
    lora = checkpoint_lora(checkpoint.folder)
    with replaced_folder(target) as temporary:
        if tokenizer is None:
            log.warning("%s: no tokenizer is known, so none is written", target)
        written = None if tokenizer is None else write_tokenizer(tokenizer, temporary)
        write_model_files(temporary, config, DTYPE_NAMES[dtype], kept, written)
        with open_model(config, dtype, seed=seed, fresh=False, lora=lora) as model:
            load_weights([model], checkpoint.folder)
            if lora is not None:
                model.to(compute_dtype)
                adapted_BSV = core_logits(model, tokens_BS, config.vocab_size)
                merge_adapters(model)
                model.to(dtype)
            _write_weights(model, config, dtype, temporary, settings.max_shard_bytes)
            ours_BSV = core_logits(model.to(compute_dtype), tokens_BS, config.vocab_size)
            device = next(model.parameters()).device
        del model
        gc.collect()  # one model in memory at a time
        reference_BSV = transformers_logits(temporary, tokens_BS, compute_dtype, device)
        receipt = compare_logits(ours_BSV, reference_BSV, tokens_BS, compute_dtype)
        receipt |= {"direction": "core to hf", "weights": DTYPE_NAMES[dtype]}
        if lora is not None:  # what the sum of weight and update lost in the weights' type
            difference = (adapted_BSV - ours_BSV).abs().max().item()
            receipt |= {"lora": lora.identity(), "largest_merge_difference": difference}
        refuse_difference(receipt, f"the export of {checkpoint.folder}")
    return receipt


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` at the end, or goes on an error."""
    for leftover in target.parent.glob(f".{target.name}.tmp.*"):  # of a killed conversion
        shutil.rmtree(leftover)
    temporary = target.with_name(f".{target.name}.tmp.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_weights(
    model: GPT, config: ModelConfig, dtype: torch.dtype, folder: Path, max_shard_bytes: int
) -> None:
    table = name_table(config)
    parameters = parameters_by_name(model, table)

    def tensors_of(row: Row) -> list[torch.Tensor]:
        return split(row, config, parameters[row.core].detach().cpu())

    write_weights(folder, table, dtype, tensors_of, max_shard_bytes)


def _replace(temporary: Path, target: Path) -> None:
    fsync_folder(temporary)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    fsync_folder(target.parent)
