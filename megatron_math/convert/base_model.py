"""Which model a road starts from: the `base` and `model` sections put together. No torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.base.stage import StageInput, finished_stage
from megatron_math.convert.config import BaseConfig
from megatron_math.convert.side_files import read_hf_config
from megatron_math.model.config import ModelConfig, ModelOverrides
from megatron_math.model.presets import load_preset


@dataclass(frozen=True)
class BaseModel:
    """config: the model. hf_folder: its weights, or None for fresh ones. inputs: for Stage."""

    config: ModelConfig
    hf_folder: Path | None
    inputs: dict[str, StageInput | Path]


def resolve_base(road: Road, base: BaseConfig) -> BaseModel:
    """Read presets or config.json, apply or check the overrides of the `model` section.

    Raises UserError for a missing folder or road, an unsupported architecture, and for `model`
    settings that contradict given weights.
    """
    section = road.section("model", ModelOverrides)
    overrides = section.model_dump(exclude_unset=True)
    if base.preset is not None:
        asked = overrides.pop("preset", base.preset)
        if asked != base.preset:
            raise UserError(
                f"base.preset is {base.preset} and model.preset is {asked}: keep one of them"
            )
        return BaseModel(load_preset(base.preset, overrides), None, {})
    if base.run is not None:
        stage = finished_stage(Path(os.path.normpath(road.root / base.run)) / "60_export")
        folder, inputs = stage.path / "hf", {"run": stage}
        return BaseModel(_given_config(folder, overrides), folder, {**inputs})
    assert base.hf is not None
    config = _given_config(base.hf, overrides)
    return BaseModel(config, base.hf, {"hf": base.hf})


def shape_of_base(road: Road) -> ModelConfig:
    """The model that the road will train, whether its base is there already or not.

    A base that is not on this machine, or another road's that has not been run, may be named by
    its preset in the section `model`. Raises UserError where nothing tells the shape.
    """
    base = road.section("base", BaseConfig)
    overrides = road.section("model", ModelOverrides).model_dump(exclude_unset=True)
    is_away = base.run is not None or (base.hf is not None and not base.hf.exists())
    if is_away and "preset" in overrides:
        return load_preset(overrides.pop("preset"), overrides)
    try:
        return resolve_base(road, base).config
    except UserError as error:
        if not is_away:
            raise
        raise UserError(f"{error}; or name the base's shape with model.preset=NAME") from None


def _given_config(folder: Path, overrides: dict[str, object]) -> ModelConfig:
    """The folder's configuration; overrides may repeat it, and set the vocabulary's padding."""
    try:
        config = ModelConfig.from_hf(read_hf_config(folder))
    except UserError as error:
        raise UserError(f"{folder}: {error}".removeprefix(f"{folder}: {folder}")) from None
    multiple = overrides.pop("vocab_padding_multiple", None)
    if multiple is not None:
        config = config.model_copy(update={"vocab_padding_multiple": multiple})
    given = config.model_dump()
    faults = []
    preset = overrides.pop("preset", None)
    if preset is not None:
        published = load_preset(str(preset)).model_dump(
            exclude={"vocab_padding_multiple", "init_std"}
        )
        faults = [
            f"model.preset {preset} has {name} {value}, the folder {given[name]}"
            for name, value in published.items()
            if given[name] != value
        ]
    faults += [
        f"model.{name} is {value}, the folder has {given[name]}"
        for name, value in overrides.items()
        if given[name] != value
    ]
    if faults:
        raise UserError(
            f"the section `model` contradicts the weights in {folder}: "
            + "; ".join(faults)
            + "; drop these settings or take another folder"
        )
    return config
