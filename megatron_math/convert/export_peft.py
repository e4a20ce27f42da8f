"""The adapters of a LoRA checkpoint -> a folder that the library PEFT loads beside the base model.

Writes adapter_config.json and adapter_model.safetensors, whole or not at all.

Core's fused maps share one A between the Hugging Face maps that they are made of; each of these
gets a copy of it and its own rows of B, which is the same product.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from megatron_math.base.errors import UserError
from megatron_math.base.files import fsync_file, write_json
from megatron_math.checkpoint.folders import Checkpoint
from megatron_math.checkpoint.state import checkpoint_dtype, load_weights
from megatron_math.convert.export_hf import replaced_folder
from megatron_math.convert.hf_folder import DTYPE_NAMES
from megatron_math.convert.names import name_table
from megatron_math.convert.receipt import FORMAT, VERSION
from megatron_math.convert.tensors import split
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora import is_adapter
from megatron_math.model.lora_config import checkpoint_lora
from megatron_math.model.whole import open_model

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def export_peft(
    checkpoint: Checkpoint, config: ModelConfig, target: Path, *, base: Path | None
) -> dict[str, Any]:
    """Write the checkpoint's adapters into the folder `target`, replacing it; returns the receipt.

    base: the Hugging Face folder that they belong to, where it is known. Raises UserError for a
    checkpoint without adapters.
    """
    lora = checkpoint_lora(checkpoint.folder)
    if lora is None:
        raise UserError(
            f"{checkpoint.folder} has no adapters: it was trained without train.lora; "
            "export its weights"
        )
    dtype = checkpoint_dtype(checkpoint.folder)
    with open_model(config, dtype, seed=0, fresh=False, lora=lora) as model:
        load_weights([model], checkpoint.folder, part=is_adapter)
        factors = {n: p.detach().cpu() for n, p in model.named_parameters() if is_adapter(n)}
    tensors, modules = {}, []
    for row in name_table(config):
        map_name = row.core.removesuffix(".weight")
        if f"{map_name}.lora_A" not in factors:
            continue
        parts = split(row, config, factors[f"{map_name}.lora_B"])
        for name, rows in zip(row.hf, parts, strict=True):
            module = name.removesuffix(".weight")
            prefix = f"base_model.model.{module}."
            tensors[prefix + "lora_A.weight"] = factors[f"{map_name}.lora_A"].clone()
            tensors[prefix + "lora_B.weight"] = rows
            modules.append(module.rpartition(".")[2])
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if base is None else str(base),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(set(modules)),
    }
    with replaced_folder(target) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        fsync_file(temporary / WEIGHTS)
        write_json(temporary / SETTINGS, settings)
    return {
        "format": FORMAT,
        "version": VERSION,
        "direction": "core to peft",
        "weights": DTYPE_NAMES[dtype],
        "parameters": lora.num_parameters(config),
        "tensors": len(tensors),
    }
