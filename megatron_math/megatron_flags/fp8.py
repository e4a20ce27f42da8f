"""Megatron-LM's FP8 flags <-> `precision.fp8`."""

from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.megatron_flags.given import Given, Settings
from megatron_math.model.fp8_config import Fp8Config

FLAGS = (
    "fp8-format", "fp8-recipe", "fp8-margin", "fp8-amax-history-len", "fp8-amax-compute-algo",
    "fp8-param-gather", "first-last-layers-bf16", "num-layers-at-start-in-bf16",
    "num-layers-at-end-in-bf16",
)  # fmt: skip
FORMATS = {"delayed": "hybrid", "tensorwise": "hybrid", "blockwise": "e4m3"}
"""What Transformer Engine's own recipes take."""


def read_fp8(given: Given, settings: Settings, whole: bool) -> None:
    """Without --fp8-format there is no FP8, and the other flags have no effect."""
    has_format, others = given.has("fp8-format"), [f for f in FLAGS[1:] if given.has(f)]
    if not has_format:
        if others:
            raise UserError(f"--{others[0]} has no effect without --fp8-format")
        if whole:
            settings["precision.fp8"] = None
        return
    kind, recipe = given.value("fp8-format"), given.value("fp8-recipe") or "delayed"
    if FORMATS.get(recipe) != kind:
        known = ", ".join(f"{name} with {form}" for name, form in FORMATS.items())
        raise UserError(f"--fp8-format {kind} has no counterpart with {recipe}; known: {known}")
    fields: dict[str, Any] = {"recipe": recipe, "parameters": given.switch("fp8-param-gather")}
    margin, length = given.value("fp8-margin", int), given.value("fp8-amax-history-len", int)
    algorithm = given.value("fp8-amax-compute-algo")
    if recipe == "delayed":
        # Of a history, most_recent (Megatron-LM's default) looks at one pass.
        fields |= {"margin": margin or 0, "amax_history": length or 1}
        if (algorithm or "most_recent") == "most_recent":
            fields["amax_history"] = 1
    elif margin or length or algorithm:
        raise UserError(f"--fp8-margin and --fp8-amax-* have no effect with {recipe}")
    start = given.value("num-layers-at-start-in-bf16", int)
    end = given.value("num-layers-at-end-in-bf16", int)
    if given.switch("first-last-layers-bf16"):
        ends = {"first_layers_bf16": start, "last_layers_bf16": end}
        fields |= {name: 1 if count is None else count for name, count in ends.items()}
    elif start is not None or end is not None:
        raise UserError("--num-layers-at-*-in-bf16 has no effect without --first-last-layers-bf16")
    try:
        settings["precision.fp8"] = Fp8Config.model_validate(fields).model_dump()
    except ValueError as error:
        raise UserError(f"--fp8-*: {error}") from None


def write_fp8(settings: Settings) -> list[str]:
    """UserError for what has no flag: emulation, and the shadow step."""
    fp8 = settings.get("precision.fp8")
    if fp8 is None:
        return []
    if fp8["backend"] != "te" or fp8["shadow_interval"] is not None:
        raise UserError("precision.fp8: backend: emulate and shadow_interval have no flag")
    recipe = fp8["recipe"]
    words = ["--fp8-format", FORMATS[recipe], "--fp8-recipe", recipe]
    if recipe == "delayed":
        length = Fp8Config.model_validate(fp8).history_length
        words += ["--fp8-margin", str(fp8["margin"] or 0), "--fp8-amax-history-len", str(length)]
        words += ["--fp8-amax-compute-algo", "max"]
    if fp8["parameters"]:
        words.append("--fp8-param-gather")
    first, last = fp8["first_layers_bf16"], fp8["last_layers_bf16"]
    if first or last:
        words += ["--first-last-layers-bf16", "--num-layers-at-start-in-bf16", str(first)]
        words += ["--num-layers-at-end-in-bf16", str(last)]
    return words
