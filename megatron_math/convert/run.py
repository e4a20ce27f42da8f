"""The room's stages: 00_base (first weights of a road) and 60_export (its result as a folder).

The question whether there is work to do is answered without torch; what needs it is imported after.
"""

import os
import shutil
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file, write_json
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.checkpoint.folders import (
    COMPLETE,
    TRACKER,
    complete_checkpoints,
    folder_name,
    open_checkpoint,
    tracked,
)
from megatron_math.convert.base_model import BaseModel, resolve_base
from megatron_math.convert.config import BaseConfig, ConvertConfig
from megatron_math.convert.folder import convert_folder
from megatron_math.convert.side_files import (
    KEPT_FOLDER,
    TOKENIZER_FOLDER,
    richest_tokenizer,
)
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import checkpoint_lora

__all__ = ["convert_folder", "run_base", "run_export"]


def run_base(road: Road) -> Stage:
    """Write 00_base: checkpoint/release, model.json, tokenizer/ if known, `hf` and receipt.json if
    there is a Hugging Face folder. UserError as `resolve_base` and `import_hf` say."""
    base = road.section("base", BaseConfig)
    settings = road.section("convert", ConvertConfig)
    model = resolve_base(road, base)
    stage = Stage(
        road.folder("00_base"),
        config={"base": base, "model": model.config},
        inputs=model.inputs,
        seed=road.seed,
    )
    if stage.is_done():
        return stage
    stage.begin()
    folder = stage.folder
    for name in ("checkpoint", TOKENIZER_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("hf", "receipt.json"):
        (folder / name).unlink(missing_ok=True)
    outputs = [folder / "checkpoint", folder / "model.json"]
    stats: dict[str, object] = {"parameters": model.config.num_parameters()}
    if model.hf_folder is None:
        _make_fresh(model.config, folder, road.seed)
    else:
        stats |= _make_import(model, folder, settings, road)
        outputs.append(folder / "receipt.json")
    write_json(folder / "model.json", model.config.model_dump(mode="json"))
    kept = folder / "checkpoint" / folder_name(None) / TOKENIZER_FOLDER
    if kept.is_dir():
        shutil.copytree(kept, folder / TOKENIZER_FOLDER)
        outputs.append(folder / TOKENIZER_FOLDER)
    stage.finish(stats=stats, outputs=outputs)
    return stage


def _make_fresh(config: ModelConfig, folder: Path, seed: int) -> None:
    from megatron_math.convert.import_hf import fresh_weights

    fresh_weights(config, folder / "checkpoint", seed=seed)


def _make_import(
    model: BaseModel, folder: Path, settings: ConvertConfig, road: Road
) -> dict[str, object]:
    from megatron_math.convert.import_hf import import_hf

    assert model.hf_folder is not None
    receipt = import_hf(
        model.hf_folder,
        folder / "checkpoint",
        settings=settings,
        vocab_padding_multiple=model.config.vocab_padding_multiple,
        seed=road.seed,
    )
    write_json(folder / "receipt.json", receipt)
    source = model.hf_folder.resolve()
    inside = source.is_relative_to(road.root.parent.resolve())
    # Within one study the link is relative, so that the folder of runs may move.
    link = os.path.relpath(source, folder.resolve()) if inside else str(source)
    (folder / "hf").symlink_to(link)
    return {"largest_logit_difference": receipt["largest_logit_difference"]}


def run_export(road: Road) -> Stage:
    """Write 60_export: hf/, receipt.json and, of a LoRA run, adapter/, from the newest checkpoint
    of 50_train or from `convert.iteration`. UserError when there is none, or no tokenizer to go
    with it."""
    settings = road.section("convert", ConvertConfig)
    save = road.folder("50_train") / "checkpoints"
    if settings.iteration is None:
        road.done("50_train")
    iteration = settings.iteration or _tracked(save)
    checkpoint_folder = save / folder_name(iteration)
    if not (checkpoint_folder / COMPLETE).is_file():
        raise UserError(
            f"there is no complete checkpoint at {checkpoint_folder}; "
            f"choose convert.iteration among {', '.join(_complete(save)) or 'none yet'}"
        )
    tokenizer = _find_tokenizer(road, checkpoint_folder)
    stage = Stage(
        road.folder("60_export"),
        config={"convert": settings},
        inputs={
            "checkpoint": StageInput(checkpoint_folder, sha256_file(checkpoint_folder / COMPLETE)),
            "base": road.done("00_base"),
            "tokenizer": tokenizer,
        },
        seed=road.seed,
    )
    if stage.is_done():
        return stage
    stage.begin()
    from megatron_math.convert.export_hf import export_hf

    checkpoint = open_checkpoint(save, iteration)
    config = ModelConfig.model_validate(checkpoint.read("model.json"))
    receipt = export_hf(
        checkpoint,
        config,
        stage.folder / "hf",
        settings=settings,
        tokenizer=richest_tokenizer(tokenizer, road.folder("00_base") / TOKENIZER_FOLDER),
        kept=road.folder("00_base") / "checkpoint" / folder_name(None) / KEPT_FOLDER,
        seed=road.seed,
    )
    outputs = [stage.folder / "hf", stage.folder / "receipt.json"]
    if checkpoint_lora(checkpoint.folder) is not None:
        from megatron_math.convert.export_peft import export_peft

        base = road.folder("00_base") / "hf"
        adapter = stage.folder / "adapter"
        receipt["adapter"] = export_peft(
            checkpoint, config, adapter, base=base.resolve() if base.is_dir() else None
        )
        outputs.append(adapter)
    write_json(stage.folder / "receipt.json", receipt)
    stage.finish(
        stats={
            "iteration": iteration,
            "parameters": config.num_parameters(),
            "largest_logit_difference": receipt["largest_logit_difference"],
        },
        outputs=outputs,
    )
    return stage


def _tracked(save: Path) -> int:
    number = tracked(save) if (save / TRACKER).is_file() else None
    if number is None:
        raise UserError(
            f"{save / TRACKER} names no iteration; train first, or set convert.iteration"
        )
    return number


def _complete(save: Path) -> list[str]:
    return [str(checkpoint.iteration) for checkpoint in complete_checkpoints(save)]


def _find_tokenizer(road: Road, checkpoint_folder: Path) -> Path:
    """The checkpoint's own tokenizer, else the index's, else the base's."""
    places = [
        checkpoint_folder / TOKENIZER_FOLDER,
        road.folder("30_index") / TOKENIZER_FOLDER,
        road.folder("00_base") / TOKENIZER_FOLDER,
    ]
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        "no tokenizer to export with the model; looked in " + ", ".join(map(str, places))
    )
