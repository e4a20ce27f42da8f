"""Keep and restore the state of core's distributed optimizer when its Adam is torch's own.

Without Transformer Engine and Apex, megatron-core 0.16.1 (seen 2026-11) resumes in a fresh process
in three wrong ways: saving or loading before the first step asserts that a step count exists;
loading the moments raises KeyError 'step'; and one step tensor is shared by all parameters, so
Adam counts once per parameter. These functions go around all three through core's own methods;
with a fused Adam they do no more than core does. Nothing is patched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

SHARDING = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
}
"""`metadata` for `sharded_state_dict`: core's default type raises in 0.16.1. Names carry no number
of the optimizer: dealt-out experts have one of their own, experts in one process do not."""


def fuse_adam(optimizer: MegatronOptimizer) -> None:
    """On a CPU, let torch's AdamW move each weight in one pass over its state in place of eight.

    Call it when the optimizer is made; loading a state brings the writer's choice along, and
    `load_optimizer_state` calls it again. A fused Adam of another package stays as it is.
    """
    for part in _parts(optimizer):
        if isinstance(part.optimizer, torch.optim.Adam | torch.optim.AdamW):
            for group in part.optimizer.param_groups:
                if all(parameter.device.type == "cpu" for parameter in group["params"]):
                    group |= {"fused": True, "foreach": False}


def create_optimizer_state(optimizer: MegatronOptimizer) -> None:
    """Give every parameter zero moments and step 0 where there are none yet.

    Call it before `sharded_state_dict`, both to save a run that has made no step and to load.
    Weights are not touched. State that is there already stays.
    """
    for part in _parts(optimizer):
        inner = part.optimizer
        if not isinstance(inner, torch.optim.Adam | torch.optim.AdamW):
            if not inner.state:
                part._init_optimizer_states_with_dummy_values()
            continue
        for group in inner.param_groups:
            for parameter in group["params"]:
                if parameter not in inner.state:
                    inner.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }


def reset_optimizer_state(optimizer: MegatronOptimizer) -> None:
    """Moments of zero, step 0, master weights from the model's, the first loss scale."""
    create_optimizer_state(optimizer)
    for part in _parts(optimizer):
        for entry in part.optimizer.state.values():
            for value in entry.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        for group in part.optimizer.param_groups:
            if "step" in group:  # where a fused Adam counts
                group["step"] = 0
    optimizer.reload_model_params()


@dataclass(frozen=True)
class OwnedRange:
    """The part of a weight whose state this rank's optimizer holds."""

    weight: torch.Tensor
    start: int
    """First value, of the flattened weight."""
    end: int
    state: dict[str, torch.Tensor]
    """Flat tensors of end - start values: `param` (the master weight), `exp_avg`, `exp_avg_sq`."""


def owned_ranges(optimizer: MegatronOptimizer) -> list[OwnedRange]:
    """What this rank's optimizer holds, as it is: not a copy."""
    create_optimizer_state(optimizer)
    return [
        OwnedRange(
            weight,
            ranges["param"].start,
            ranges["param"].end,
            {
                name: value.detach()
                for name, value in part._get_main_param_and_optimizer_states(weight).items()
                if name != "step"  # one number for all, kept with the parameter groups
            },
        )
        for part in _parts(optimizer)
        for of_buffer in part.gbuf_ranges
        for buckets in of_buffer.values()
        for bucket in buckets
        for weight, ranges in bucket["param_map"].items()
    ]


def weights_of(optimizer: MegatronOptimizer) -> set[torch.Tensor]:
    """The weights that the optimizer moves, on whichever replica their state is."""
    return {
        weight
        for part in _parts(optimizer)
        for buffer in part.buffers
        for weight in buffer.param_index_map
    }


def common_optimizer_state(optimizer: MegatronOptimizer) -> dict[Any, Any]:
    """What is equal on all ranks: parameter groups with the step, and the loss scale of fp16."""
    create_optimizer_state(optimizer)
    kind = {"param_state_sharding_type": SHARDING["distrib_optim_sharding_type"]}
    if isinstance(optimizer, ChainedOptimizer):
        optimizer._synchronize_steps()
    found = [part.state_dict() | kind for part in _parts(optimizer)]
    return found[0] if len(found) == 1 else dict(enumerate(found))


@torch.no_grad()
def load_optimizer_state(
    optimizer: MegatronOptimizer, common: Mapping[Any, Any], owned: Sequence[OwnedRange]
) -> None:
    """Load what `common_optimizer_state` gave in the run that wrote it, and flat tensors for all of
    `owned_ranges`."""
    states = {item.weight: item.state for item in owned}
    # Parameter groups are as the writer had them, under the same names if it had as many of them.
    numbered = [common[index] for index in sorted(key for key in common if isinstance(key, int))]
    written = [entry for entry in (common, *numbered) if "optimizer" in entry]
    groups = [group for entry in written for group in entry["optimizer"]["param_groups"]]
    for part in _parts(optimizer):
        own = {name: value for name, value in written[0].items() if isinstance(name, str)}
        own.pop("param_state", None)
        kind = own.pop("param_state_sharding_type")
        assert kind == SHARDING["distrib_optim_sharding_type"], kind
        own["optimizer"] = own["optimizer"] | {"param_groups": _groups_for(part, groups)}
        part.load_state_dict(own)
        entries = list(part.optimizer.state.values())
        steps = [entry.pop("step", None) for entry in entries]
        for of_buffer in part.gbuf_ranges:
            for buckets in of_buffer.values():
                for bucket in buckets:
                    for weight in bucket["param_map"]:
                        part._set_main_param_and_optimizer_states(weight, states[weight])
        for entry, step in zip(entries, steps, strict=True):
            if step is not None:
                entry["step"] = step.clone()
    fuse_adam(optimizer)


def _groups_for(part: DistributedOptimizer, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The written group of the same multipliers for each group, whether of experts or not."""

    def multipliers(group: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(group[name] for name in ("wd_mult", "lr_mult", "is_decoupled_lr"))

    by_multipliers = {multipliers(group): group for group in written}
    return [
        by_multipliers[multipliers(group)] | {"is_expert_parallel": group["is_expert_parallel"]}
        for group in part.optimizer.param_groups
    ]


def _parts(optimizer: MegatronOptimizer) -> list[DistributedOptimizer]:
    parts = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
    for part in parts:
        assert isinstance(part, DistributedOptimizer), "use_distributed_optimizer=True is needed"
    return list(parts)
