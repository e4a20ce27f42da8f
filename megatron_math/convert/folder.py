"""One folder into the other kind, outside of any road: the verb `convert`.

Reads one folder, writes the other with its receipt.json. torch is loaded when the work begins.
"""

from pathlib import Path
from typing import Any, Literal

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json
from megatron_math.checkpoint.folders import (
    COMPLETE,
    TRACKER,
    Checkpoint,
    complete_checkpoints,
    open_checkpoint,
)
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.side_files import KEPT_FOLDER, TOKENIZER_FOLDER
from megatron_math.model.config import ModelConfig

Layout = Literal["hf", "core"]
Direction = Literal["auto", "hf-to-core", "core-to-hf"]


def detect_layout(folder: Path) -> Layout:
    """Which kind of folder this is. UserError when it is neither (or both)."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a Hugging Face folder or a checkpoint")
    is_core = (folder / TRACKER).is_file() or (folder / COMPLETE).is_file()
    is_hf = (folder / "config.json").is_file()
    if is_core == is_hf:
        found = "both" if is_core else "neither"
        raise UserError(
            f"{folder} holds {found} of config.json (a Hugging Face folder) and {TRACKER} or "
            f"{COMPLETE} (a Megatron-Core checkpoint); give one of the two"
        )
    return "hf" if is_hf else "core"


def convert_folder(
    source: Path,
    target: Path,
    *,
    direction: Direction = "auto",
    iteration: int | None = None,
    tokenizer: Path | None = None,
    adapter: bool = False,
    settings: ConvertConfig | None = None,
) -> dict[str, Any]:
    """Convert `source` into the new folder `target`; the receipt is written there and returned.

    iteration: which checkpoint of a folder of checkpoints. tokenizer: a folder to ship with an
    export, where the checkpoint holds none. adapter: export the adapters of a LoRA checkpoint in
    PEFT's format, in place of the model that they are merged into. Raises UserError for a source of
    the wrong kind, a target that has something in it, and whatever `import_hf`, `export_hf` and
    `export_peft` refuse.
    """
    found = detect_layout(source)
    asked = {"auto": found, "hf-to-core": "hf", "core-to-hf": "core"}[direction]
    if asked != found:
        raise UserError(f"{direction} was asked, and {source} is a folder of kind {found}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty; give a new folder")
    settings = settings or ConvertConfig()
    if found == "hf":
        if iteration is not None or tokenizer is not None:
            raise UserError("iteration and tokenizer have no effect on an import; drop them")
        if adapter:
            raise UserError(f"adapters were asked for, and {source} is a Hugging Face folder")
        from megatron_math.convert.import_hf import import_hf

        receipt = import_hf(source, target, settings=settings)
    else:
        checkpoint = _chosen(source, iteration)
        if adapter:
            receipt = _export_adapter(checkpoint, target, tokenizer)
        else:
            receipt = _export(checkpoint, target, tokenizer, settings)
    write_json(target / "receipt.json", receipt)
    return receipt


def _chosen(source: Path, iteration: int | None) -> Checkpoint:
    if iteration is not None and not (source / TRACKER).is_file():
        raise UserError(f"{source} is one checkpoint; iteration {iteration} has no effect, drop it")
    known = {checkpoint.iteration for checkpoint in complete_checkpoints(source)}
    if iteration is not None and iteration not in known:
        listed = ", ".join(str(number) for number in sorted(known, key=str)) or "none"
        raise UserError(f"{source} has no complete iteration {iteration}; it has {listed}")
    return open_checkpoint(source, iteration)


def _export_adapter(checkpoint: Checkpoint, target: Path, tokenizer: Path | None) -> dict[str, Any]:
    from megatron_math.convert.export_peft import export_peft

    if tokenizer is not None:
        raise UserError("adapters are written without a tokenizer: it is the base model's; drop it")
    return export_peft(checkpoint, _model_config(checkpoint), target, base=None)


def _export(
    checkpoint: Checkpoint, target: Path, tokenizer: Path | None, settings: ConvertConfig
) -> dict[str, Any]:
    from megatron_math.convert.export_hf import export_hf

    own_tokenizer = checkpoint.folder / TOKENIZER_FOLDER
    if tokenizer is None and own_tokenizer.is_dir():
        tokenizer = own_tokenizer
    return export_hf(
        checkpoint,
        _model_config(checkpoint),
        target,
        settings=settings,
        tokenizer=tokenizer,
        kept=checkpoint.folder / KEPT_FOLDER,
    )


def _model_config(checkpoint: Checkpoint) -> ModelConfig:
    if not (checkpoint.folder / "model.json").is_file():
        raise UserError(
            f"{checkpoint.folder} has no model.json, so its sizes are not known; "
            "put the model.json of 00_base beside its weights"
        )
    return ModelConfig.model_validate(checkpoint.read("model.json"))
