"""Presets: published models as data, one YAML file each in `presets/`.

Each file holds `source` (where the numbers were published), `parameters` (the published count) and
the fields of ModelConfig. Torch-free.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from megatron_math.base.config import load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.model.config import ModelConfig

_FOLDER = files("megatron_math.model") / "presets"

PRESETS: tuple[str, ...] = tuple(
    sorted(
        entry.name.removesuffix(".yaml")
        for entry in _FOLDER.iterdir()
        if entry.name.endswith(".yaml")
    )
)
"""Names of all presets."""


def read_preset(name: str) -> dict[str, Any]:
    """The preset's file: `source`, `parameters` and ModelConfig's fields. UserError if unknown."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"no model preset {name!r}; {hint}presets: {', '.join(PRESETS)}")
    data = load_yaml((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    assert isinstance(data, dict), f"preset {name} is not a mapping"
    return data


def load_preset(name: str, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The preset with some fields replaced. UserError for an unknown preset or bad fields."""
    fields = read_preset(name)
    del fields["source"], fields["parameters"]
    return parse_section(ModelConfig, {**fields, **(overrides or {})}, f"model (preset {name})")
