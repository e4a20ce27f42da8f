"""Settings of a road for the table, and the road that settings mean."""

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import yaml

from megatron_math.base.config import Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, Leaf, resolve
from megatron_math.convert.base_model import shape_of_base
from megatron_math.megatron_flags.groups import GROUP_SETTINGS, num_samples
from megatron_math.megatron_flags.table import ROWS
from megatron_math.model.presets import PRESETS, load_preset
from megatron_math.train.config import (
    DEFAULT_BALANCE_COEFFICIENT,
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)

SECTIONS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "parallel": ParallelConfig,
    "precision": PrecisionConfig,
    "checkpoint": CheckpointConfig,
}


def settings_of(road: Road) -> dict[str, Any]:
    """Settings of a road that the table knows, resolved: with defaults, tokens as whole samples.

    Length and mix are left out where the road has more than flags can say: stages of different
    lengths, groups, epochs.
    """
    settings: dict[str, Any] = {"seed": road.seed}
    sections = {name: road.section(name, model) for name, model in SECTIONS.items()}
    for name, section in sections.items():
        values = section.model_dump()
        settings |= {f"{name}.{key}": value for key, value in values.items()}
    settings |= {f"model.{key}": value for key, value in shape_of_base(road).model_dump().items()}
    if road.has("blend"):
        blend = road.section("blend", BlendConfig)
        stages = resolve(blend)
        settings["blend.validation"] = blend.validation
        lengths = {stage.sequence_length for stage in stages}
        if len(lengths) == 1:
            settings["blend.sequence_length"] = length = lengths.pop()
            if all(stage.tokens for stage in stages):
                samples = sum(-(-(stage.tokens or 0) // length) for stage in stages)
                settings["blend.tokens"] = samples * length
        parts = stages[0].mix.parts
        if len(stages) == 1 and all(_is_plain(part) for part in parts):
            settings["blend.mix"] = {
                part.name: {"share": _number(part.amount), "path": part.path}
                for part in parts
                if isinstance(part, Leaf)
            }
    if settings["model.num_experts"] is not None and settings["train.balance_coefficient"] is None:
        settings["train.balance_coefficient"] = DEFAULT_BALANCE_COEFFICIENT
    if settings["train.schedule"] == "wsd":
        share = settings["train.decay_share"] or 0.15
        total = num_samples(settings) if settings.get("blend.tokens") else None
        settings["train.decay_share"] = round(share * total) / total if total else share
    else:
        del settings["train.decay_share"]
    known = {row.setting for row in ROWS} | GROUP_SETTINGS
    return {name: value for name, value in settings.items() if name in known}


def refuse_without_flags(road: Road) -> None:
    """UserError where a road asks for training that Megatron-LM has no flags for."""
    train = road.section("train", TrainConfig)
    for name in ("lora", "stages"):
        if getattr(train, name) is not None:
            raise UserError(f"train.{name} has no flag of Megatron-LM; the rest would mislead")


def _number(amount: Fraction) -> int | float:
    return int(amount) if amount.denominator == 1 else float(amount)


def _is_plain(part: Any) -> bool:
    """Whether --data-path says all of it."""
    plain = isinstance(part, Leaf) and part.kind == "share" and part.path is not None
    return plain and (part.pack, part.loss, part.attend, part.max_epochs) == (
        "concat", "all", "inside", None
    )  # fmt: skip


def as_road(settings: Mapping[str, Any], name: str = "megatron") -> str:
    """The road file that a whole command line means, without what is our default anyway."""
    raw: dict[str, Any] = {"name": name}
    base, model, remark = _base(settings)
    raw["base"] = base
    if model:
        raw["model"] = model
    defaults = {
        f"{section}.{field.alias or key}": field.default
        for section, config in SECTIONS.items()
        for key, field in config.model_fields.items()
    }
    for setting, value in settings.items():
        section, _, key = setting.rpartition(".")
        if section == "model" or (setting in defaults and defaults[setting] == value):
            continue
        if section:
            raw.setdefault(section, {})[key] = value
        else:
            raw[key] = value
    text = yaml.safe_dump(raw, sort_keys=False, default_flow_style=False)
    return f"# {remark}\n{text}"


def _base(settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], str]:
    """`base`, `model` and a remark: fresh weights of a preset, if one has these numbers."""
    model = {n.removeprefix("model."): v for n, v in settings.items() if n.startswith("model.")}
    free = ("vocab_padding_multiple", "init_std")
    hint = "name a folder in `base: {hf: ...}` to go on from published weights"
    for preset in PRESETS:
        published = load_preset(preset).model_dump()
        if all(published[key] == value for key, value in model.items() if key not in free):
            changed = {key: model[key] for key in free if model[key] != published[key]}
            return {"preset": preset}, changed, f"Fresh weights of {preset}; {hint}."
    family = "qwen2" if model["qkv_bias"] else "mistral" if model["sliding_window"] else "llama"
    family = "mixtral" if model["num_experts"] is not None else family
    return {"preset": "tiny"}, {"family": family, **model}, f"Fresh weights of this shape; {hint}."


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as dotted overrides of a road."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def check_road(text: str) -> None:
    """UserError where settings of the YAML that `as_road` writes contradict each other."""
    raw = load_yaml(text, "the flags' YAML")
    for name, section in SECTIONS.items():
        parse_section(section, raw.get(name), name)
    resolve(parse_section(BlendConfig, raw.get("blend"), "blend"))
