"""Flags of a model with experts: how many, how they are chosen and how they are kept busy."""

from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.megatron_flags.given import Given, Settings

FIXED: dict[str, tuple[str, str]] = {
    "moe-token-dispatcher-type": ("alltoall", "tokens go to their experts by all-to-all"),
    "moe-router-dtype": ("fp32", "routers compute in fp32"),
    "moe-router-score-function": ("softmax", "experts are weighted by a softmax"),
    "moe-layer-freq": ("1", "every layer has experts"),
    "moe-grouped-gemm": ("", "the layer spec decides it"),
    "moe-permute-fusion": ("", "the layer spec decides it"),
}
"""What holds here in any case, or changes the speed alone: the value, and why there is no other."""
FLAGS = (
    "num-experts", "moe-router-topk", "moe-ffn-hidden-size", "expert-tensor-parallel-size",
    "moe-router-load-balancing-type", "moe-aux-loss-coeff", *FIXED,
)  # fmt: skip
SETTINGS = ("model.num_experts", "model.experts_per_token", "train.balance_coefficient")


def read_experts(given: Given, settings: Settings, whole: bool) -> None:
    """Sets SETTINGS; None, all of them, for a model without experts."""
    experts = given.value("num-experts", int)
    if whole or experts is not None:
        settings["model.num_experts"] = experts
    if settings.get("model.num_experts") is None:
        idle = [flag for flag in FLAGS if given.has(flag)]
        if idle:
            raise UserError(f"--{idle[0]} has no effect without --num-experts")
        if whole:
            settings.update(dict.fromkeys(SETTINGS))
        return
    chosen = given.value("moe-router-topk", int)
    if whole or chosen is not None:
        settings["model.experts_per_token"] = 2 if chosen is None else chosen
    width = given.value("moe-ffn-hidden-size", int)
    if width is not None:  # no layer is left that has the other width
        settings["model.ffn_hidden_size"] = width
    _read_tensor(given, settings, whole)
    _read_balance(given, settings, whole)
    for flag, (value, why) in FIXED.items():
        words = given.words(flag)
        if words and words != [value]:
            raise UserError(f"--{flag} {' '.join(words)}: {why}; give {value or 'it alone'}")


def _read_tensor(given: Given, settings: Settings, whole: bool) -> None:
    """Experts are whole: Megatron-LM cuts them as the rest unless it is told not to."""
    ways, tensor = given.value("expert-tensor-parallel-size", int), settings["parallel.tensor"]
    if ways is None and (not whole or tensor == 1):
        return
    if ways != 1:
        raise UserError(
            f"--expert-tensor-parallel-size {ways or f'left out, which is {tensor},'} has no "
            "counterpart: experts are not cut; give 1"
        )


def _read_balance(given: Given, settings: Settings, whole: bool) -> None:
    """The loss is taken row by row here; Megatron-LM's aux_loss is one row's in batches of one."""
    kind = given.value("moe-router-load-balancing-type")
    weight = given.value("moe-aux-loss-coeff", float)
    if kind is None and weight is None and not whole:
        return
    kind = "aux_loss" if kind is None and whole else kind
    if weight is None:
        weight = 0.0 if whole or kind == "none" else settings.get("train.balance_coefficient")
    if kind == "none" and weight:
        raise UserError(
            f"--moe-aux-loss-coeff {weight} has no effect with "
            "--moe-router-load-balancing-type none"
        )
    if kind not in (None, "none", "aux_loss", "seq_aux_loss"):
        raise UserError(
            f"--moe-router-load-balancing-type {kind} has no counterpart; give seq_aux_loss or none"
        )
    rows = settings.get("train.micro_batch_size")
    if weight and kind == "aux_loss" and rows != 1:
        raise UserError(
            f"--moe-router-load-balancing-type {kind} with --micro-batch-size {rows} has no "
            "counterpart: each row is balanced by itself; give seq_aux_loss, or aux_loss with a "
            "micro-batch of 1"
        )
    settings["train.balance_coefficient"] = weight


def write_experts(settings: Settings) -> list[str]:
    """The inverse of `read_experts`."""
    experts, weight = settings.get("model.num_experts"), settings.get("train.balance_coefficient")
    if experts is None:
        if weight is not None:
            raise UserError(f"train.balance_coefficient {weight}: the model has no experts")
        return []
    words: list[Any] = ["--num-experts", experts]
    words += ["--moe-router-topk", settings["model.experts_per_token"]]
    if weight:
        words += ["--moe-router-load-balancing-type", "seq_aux_loss"]
        words += ["--moe-aux-loss-coeff", weight]
    else:
        words += ["--moe-router-load-balancing-type", "none"]
    if settings.get("parallel.tensor", 1) > 1:
        words += ["--expert-tensor-parallel-size", 1]
    words += ["--moe-token-dispatcher-type", "alltoall", "--moe-router-dtype", "fp32"]
    return [str(word) for word in words]
