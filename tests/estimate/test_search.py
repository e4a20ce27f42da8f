"""The search against a plain enumeration, and its refusal."""

from dataclasses import replace
from itertools import product

import pytest

from megatron_math.base.errors import UserError
from megatron_math.estimate import search as room
from megatron_math.estimate.hardware import Gpu, load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import rank_memory
from megatron_math.estimate.search import search
from megatron_math.estimate.speed import estimate_speed
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset

MODEL = load_preset("llama3-8b", {"num_layers": 8})
ASKED = Layout(gpus=16, sequence_length=8192, global_batch=32)


def enumerate_all(model: ModelConfig, asked: Layout, gpu: Gpu) -> dict[Layout, float]:
    """Every combination, recomputation included: layout -> tokens/s, where it fits."""
    found = {}
    axes = product((1, 2, 4, 8), (1, 2, 4, 8, 16), range(1, 9), range(1, 9), (1, 2, 4, 8, 16))
    for tensor, context, pipeline, virtual, micro_batch in axes:
        if virtual > 1 and pipeline == 1:
            continue
        for recompute in ("none", "selective", "full"):
            layout = replace(
                asked,
                tensor=tensor,
                sequence=tensor > 1,
                context=context,
                pipeline=pipeline,
                virtual=virtual,
                micro_batch=micro_batch,
                recompute=recompute,  # type: ignore[arg-type]
            )
            if tensor * context * pipeline > asked.gpus or layout.fault(model) is not None:
                continue
            if rank_memory(model, layout)[0].total <= gpu.memory_bytes:
                found[layout] = estimate_speed(model, layout, gpu).tokens_per_second_per_gpu
    return found


def small_gpu(share: float) -> Gpu:
    gpu = load_gpu("h100")
    return gpu.model_copy(update={"memory_bytes": int(share * gpu.memory_bytes)})


def agrees(gpu: Gpu) -> bool:
    found, every = search(MODEL, ASKED, gpu), enumerate_all(MODEL, ASKED, gpu)
    speeds = [choice.speed.tokens_per_second_per_gpu for choice in found]
    spreads = {replace(layout, recompute="none") for layout in every}
    return (
        all(every[choice.layout] == speed for choice, speed in zip(found, speeds, strict=True))
        and [round(speed, 3) for speed in speeds]
        == sorted((round(speed, 3) for speed in speeds), reverse=True)
        and speeds[0] == pytest.approx(max(every.values()), abs=2e-3)
        and {replace(choice.layout, recompute="none") for choice in found} == spreads
    )


@pytest.mark.parametrize("share", [1.0, 0.3, 0.15])
def test_it_finds_what_enumeration_finds(share: float) -> None:
    assert agrees(small_gpu(share))


def test_equally_fast_layouts_come_with_fewer_cuts_first() -> None:
    found = search(MODEL, ASKED, small_gpu(1.0))
    same = [c for c in found if round(c.speed.tokens_per_second_per_gpu, 3) == round(
        found[0].speed.tokens_per_second_per_gpu, 3)]  # fmt: skip
    cuts = [c.layout.tensor * c.layout.context * c.layout.pipeline for c in same]
    assert cuts == sorted(cuts)


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RECOMPUTE", ("full",))
    assert not agrees(small_gpu(1.0))


def test_less_memory_asks_for_recomputation_or_more_cuts() -> None:
    roomy, tight = search(MODEL, ASKED, small_gpu(1.0)), search(MODEL, ASKED, small_gpu(0.15))
    assert len(tight) < len(roomy)
    assert tight[0].speed.tokens_per_second_per_gpu < roomy[0].speed.tokens_per_second_per_gpu


def test_nothing_fits() -> None:
    model = load_preset("llama3-8b")
    with pytest.raises(UserError, match="no layout on 1 x H100 SXM 80 GB fits.*is optimizer"):
        search(model, replace(ASKED, gpus=1), load_gpu("h100"))


def test_nothing_divides() -> None:
    with pytest.raises(UserError, match="no layout of 7 GPUs divides this model"):
        search(MODEL, replace(ASKED, gpus=7, global_batch=32), load_gpu("h100"))
