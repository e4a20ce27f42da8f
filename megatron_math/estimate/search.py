"""Every layout of one run on given GPUs that fits, fastest first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import Gpu
from megatron_math.estimate.layout import Layout, Recompute
from megatron_math.estimate.memory import Memory, rank_memory
from megatron_math.estimate.speed import Speed, estimate_speed
from megatron_math.model.config import ModelConfig

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
"""In order of cost: each makes again what the one before does, and more, and keeps no more."""
LARGEST_CONTEXT = 16
LARGEST_MICRO_BATCH = 16


@dataclass(frozen=True)
class Choice:
    """A layout that fits. `overlap` and everything not searched are as in the road."""

    layout: Layout
    memory: Memory
    speed: Speed


def layouts(model: ModelConfig, asked: Layout, gpu: Gpu) -> Iterator[Layout]:
    """Every spread of `asked`'s batch over its GPUs that can be run, without recomputation.

    Tensor parallelism stays within a node and always comes with sequence parallelism.
    """
    experts = model.num_experts or 1
    shares = [ways for ways in range(1, experts + 1) if experts % ways == 0]
    cuts = product(_powers_of_two(gpu.gpus_per_node), _powers_of_two(LARGEST_CONTEXT), shares)
    for tensor, context, expert in cuts:
        for pipeline in range(1, min(model.num_layers, asked.gpus) + 1):
            if model.num_layers % pipeline or asked.gpus % (tensor * context * pipeline):
                continue
            for virtual in range(1, model.num_layers // pipeline + 1 if pipeline > 1 else 2):
                for micro_batch in _powers_of_two(LARGEST_MICRO_BATCH):
                    layout = replace(
                        asked,
                        tensor=tensor,
                        sequence=tensor > 1,
                        context=context,
                        expert=expert,
                        pipeline=pipeline,
                        virtual=virtual,
                        micro_batch=micro_batch,
                        recompute="none",
                        first_stage_layers=None,
                        last_stage_layers=None,
                    )
                    if layout.fault(model) is None:
                        yield layout


def search(model: ModelConfig, asked: Layout, gpu: Gpu) -> list[Choice]:
    """Layouts that fit, fastest first, each with the least recomputation that makes it fit.

    UserError where none fits, with the term that is too large in the one that comes closest.
    """
    found, closest = [], None
    for layout in layouts(model, asked, gpu):
        for mode in RECOMPUTE:
            candidate = replace(layout, recompute=mode)
            memory, _ = rank_memory(model, candidate)
            if memory.total <= gpu.memory_bytes:
                found.append(Choice(candidate, memory, estimate_speed(model, candidate, gpu)))
                break
            if closest is None or memory.total < closest.total:
                closest = memory
    if not found:
        if closest is None:
            raise UserError(
                f"no layout of {asked.gpus} GPUs divides this model and a global batch of "
                f"{asked.global_batch}: change one of them"
            )
        raise UserError(
            f"no layout on {asked.gpus} x {gpu.name} fits; the one that comes closest needs "
            f"{closest.total / gpu.memory_bytes:.2f} of the memory, and its largest term is "
            f"{closest.largest} ({getattr(closest, closest.largest) / 1024**3:.1f} GiB): "
            "use more GPUs, or GPUs with more memory"
        )
    return sorted(found, key=_rank)


def _rank(choice: Choice) -> tuple[float, int, int]:
    """Fastest first; among equally fast ones fewer cuts, then less memory."""
    layout, rate = choice.layout, choice.speed.tokens_per_second_per_gpu
    return -round(rate, 3), layout.tensor * layout.context * layout.pipeline, choice.memory.total


def _powers_of_two(largest: int) -> Iterator[int]:
    value = 1
    while value <= largest:
        yield value
        value *= 2
