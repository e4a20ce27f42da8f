"""Hugging Face folder, or nothing but a seed -> a Megatron-Core checkpoint of one process.

Writes `<save>/release/` (weights, model.json, tokenizer/, hf/) and the tracker, whole or not at
all.
"""

import contextlib
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.files import write_json
from megatron_math.base.log import log
from megatron_math.checkpoint.folders import publish, sweep, temporary_folder
from megatron_math.checkpoint.state import save_weights
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.core_model import core_logits, fill_from_hf, zero_padding
from megatron_math.convert.hf_folder import DTYPE_NAMES, check_names, open_hf_folder
from megatron_math.convert.names import name_table
from megatron_math.convert.receipt import (
    compare_logits,
    receipt_dtype,
    receipt_tokens,
    refuse_difference,
    transformers_logits,
)
from megatron_math.convert.side_files import (
    TOKENIZER_FOLDER,
    keep_hf_files,
    keep_tokenizer,
)
from megatron_math.model.config import ModelConfig
from megatron_math.model.whole import open_model


def import_hf(
    source: Path,
    save: Path,
    *,
    settings: ConvertConfig,
    vocab_padding_multiple: int = 128,
    seed: int = 1234,
) -> dict[str, Any]:
    """Convert the folder `source` into `<save>/release`; returns the receipt.

    The weights keep their dtype. Raises UserError, and leaves nothing behind, for an unsupported
    architecture or setting, for missing or unused tensors, and when the logits differ.
    """
    hf = open_hf_folder(source, vocab_padding_multiple)
    table = name_table(hf.config)
    check_names(hf, table)
    compute_dtype = receipt_dtype(hf.dtype, settings.receipt_dtype, hf.config)
    tokens_BS = receipt_tokens(hf.config)
    with _release_folder(save) as temporary:
        with open_model(hf.config, hf.dtype, seed=seed, fresh=False) as model:
            fill_from_hf(model, hf, table)
            save_weights([model], temporary)
            ours_BSV = core_logits(model.to(compute_dtype), tokens_BS, hf.config.vocab_size)
            device = next(model.parameters()).device
        del model
        gc.collect()  # one model in memory at a time
        reference_BSV = transformers_logits(source, tokens_BS, compute_dtype, device)
        receipt = compare_logits(ours_BSV, reference_BSV, tokens_BS, compute_dtype)
        receipt |= {"direction": "hf to core", "weights": DTYPE_NAMES[hf.dtype]}
        refuse_difference(receipt, f"the import of {source}")
        write_json(temporary / "model.json", hf.config.model_dump(mode="json"))
        keep_hf_files(source, temporary)
        if not keep_tokenizer(source, temporary / TOKENIZER_FOLDER):
            log.info("%s has no tokenizer files; none are kept", source)
    return receipt


def fresh_weights(config: ModelConfig, save: Path, *, seed: int) -> None:
    """Draw fp32 weights from the seed, in one process, into `<save>/release`."""
    with (
        _release_folder(save) as temporary,
        open_model(config, torch.float32, seed=seed, fresh=True) as model,
    ):
        zero_padding(model, config, name_table(config))
        save_weights([model], temporary)
        write_json(temporary / "model.json", config.model_dump(mode="json"))


@contextlib.contextmanager
def _release_folder(save: Path) -> Iterator[Path]:
    """A folder that becomes `<save>/release` if the block ends well, and vanishes if not."""
    existed = save.is_dir()
    sweep(save)  # what a killed conversion left
    temporary = temporary_folder(save, None)
    try:
        yield temporary
        publish(temporary, save, None)
    except BaseException:
        shutil.rmtree(temporary if existed else save, ignore_errors=True)
        raise
