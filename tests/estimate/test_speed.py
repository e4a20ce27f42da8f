"""The step's terms against arithmetic on round numbers, and what may never be slower."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.estimate import speed as room
from megatron_math.estimate.hardware import GPUS, Gpu, load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.speed import estimate_speed
from megatron_math.model.presets import load_preset

MODEL = load_preset("llama3-8b")
LAYOUT = Layout(gpus=8, sequence_length=8192, global_batch=64)
ROUND = Gpu.model_validate(
    {
        "name": "round",
        "architecture": "none",
        "memory_bytes": 10**11,
        "memory_bytes_per_second": 1e12,
        "peak_flops": {"bf16": 1e15, "fp8": 2e15},
        "gpus_per_node": 8,
        "node_bytes_per_second": 1e11,
        "network_bytes_per_second": 1e10,
        "watts": 1000,
        "shares": {
            "matmul": {"bf16": 0.5, "fp8": 0.5},
            "attention": {"flash2": 0.25, "flash3": 0.5},
            "memory": 1.0,
            "link": 1.0,
        },
        "sources": {},
    }
)
LINEAR = 218_103_808  # weights of one layer's products


def test_matrix_products_and_attention() -> None:
    step = estimate_speed(MODEL, LAYOUT, ROUND).step
    tokens = 8 * 8192  # of one rank
    assert step.matmul == pytest.approx(6 * tokens * (32 * LINEAR + 128_256 * 4096) / 0.5e15)
    # Two products of 4,096 multiply-adds a key, 8,193 / 2 keys, forward 1 and backward 2.5 times.
    assert step.attention == pytest.approx(tokens * 32 * 4 * 4096 * 8193 / 2 * 3.5 / 0.5e15)
    full = estimate_speed(MODEL, replace(LAYOUT, recompute="full"), ROUND).step
    assert full.matmul - step.matmul == pytest.approx(2 * tokens * 32 * LINEAR / 0.5e15)
    assert full.attention == pytest.approx(step.attention * 4.5 / 3.5)
    fp8 = estimate_speed(MODEL, replace(LAYOUT, precision="fp8"), ROUND).step
    assert fp8.matmul == pytest.approx(6 * tokens * (32 * LINEAR / 1e15 + 128_256 * 4096 / 0.5e15))
    assert fp8.attention == step.attention


def test_links() -> None:
    tensor = Layout(gpus=8, sequence_length=8192, global_batch=8, tensor=8, overlap=False)
    step = estimate_speed(MODEL, tensor, ROUND).step
    # Eight micro-batches, 32 layers, four sums of 8,192 x 4,096 bf16, 2 x 7/8 of it on the wire.
    assert step.tensor_links == pytest.approx(8 * 32 * 4 * 1.75 * 8192 * 4096 * 2 / 1e11)
    # Replicas in one node: fp32 gradients out, bf16 weights back, 7/8 of each, once a step.
    plain = estimate_speed(MODEL, replace(LAYOUT, overlap=False), ROUND).step
    held = 8_030_261_248
    assert plain.data_links == pytest.approx(7 / 8 * 6 * held / 1e11)
    assert estimate_speed(MODEL, LAYOUT, ROUND).step.data_links == 0
    # Over two nodes a ring leaves by all eight cards of a node: 8e10, less than the node's own.
    two = estimate_speed(MODEL, replace(LAYOUT, gpus=16, overlap=False), ROUND).step
    assert two.data_links == pytest.approx(15 / 16 * 6 * held / 8e10)


def test_bubble_is_narayanans() -> None:
    layout = Layout(gpus=8, sequence_length=8192, global_batch=32, pipeline=8)
    found = estimate_speed(MODEL, layout, ROUND)
    assert found.bubble_share == 7 / 32
    busy = found.step.total - found.step.bubble - found.step.data_links - found.step.optimizer
    assert found.step.bubble == pytest.approx(busy * 7 / 32)
    assert estimate_speed(MODEL, replace(layout, virtual=4), ROUND).bubble_share == 7 / 128


def test_rates_follow_from_the_step() -> None:
    found = estimate_speed(MODEL, LAYOUT, ROUND)
    tokens = 64 * 8192 / found.step.total / 8
    assert found.tokens_per_second_per_gpu == pytest.approx(tokens)
    # 45.0 GFLOP a token of products, and 6.4 or 12.9 of attention: the two conventions.
    assert found.tflops_causal == pytest.approx(tokens * 51.5e9 / 1e12, rel=1e-3)
    assert found.tflops_full == pytest.approx(tokens * 57.9e9 / 1e12, rel=1e-3)
    assert found.mfu == pytest.approx(found.tflops_causal / 1000)


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ATTENTION_BACKWARD", 2.0)
    with pytest.raises(AssertionError):
        test_matrix_products_and_attention()


@given(
    gpu=st.sampled_from(GPUS),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    sharding=st.sampled_from(["optimizer", "full"]),
    overlap=st.booleans(),
)
def test_what_may_never_be_slower(gpu: str, tensor: int, pipeline: int, **rest: object) -> None:
    layout = Layout(
        gpus=32,
        sequence_length=8192,
        global_batch=256,
        tensor=tensor,
        pipeline=pipeline,
        **rest,  # type: ignore[arg-type]
    )
    machine = load_gpu(gpu)
    now = estimate_speed(MODEL, layout, machine)

    def rate(changed: Layout = layout, **numbers: float) -> float:
        machine_ = machine.model_copy(update=numbers)
        return estimate_speed(MODEL, changed, machine_).tokens_per_second_per_gpu

    base = now.tokens_per_second_per_gpu
    assert now.step.total == pytest.approx(sum(vars(now.step).values()))
    assert 0 < now.mfu < 1
    slower = [
        rate(replace(layout, recompute="full")),
        rate(replace(layout, recompute="selective")),
        base,
    ]
    assert slower == pytest.approx(sorted(slower))
    faster = {
        "overlap": rate(replace(layout, overlap=True)),
        "batch": rate(replace(layout, global_batch=512)),
        "network": rate(network_bytes_per_second=2 * machine.network_bytes_per_second),
        "memory": rate(memory_bytes_per_second=2 * machine.memory_bytes_per_second),
    }
    if pipeline > 1:
        faster["virtual"] = rate(replace(layout, virtual=2))
    assert min(faster.values()) >= base * (1 - 1e-9), faster
    assert rate(replace(layout, fused=False)) <= base * (1 + 1e-9)


def test_fp32_has_its_own_rate_everywhere() -> None:
    gpu = load_gpu("h100")
    found = estimate_speed(MODEL, replace(LAYOUT, precision="fp32"), gpu).step
    bf16 = estimate_speed(MODEL, LAYOUT, gpu).step
    fp32_speed = 67e12 * gpu.reached.matmul["fp32"]
    assert found.matmul == pytest.approx(
        bf16.matmul * 989e12 * gpu.reached.matmul["bf16"] / fp32_speed
    )
    assert found.attention == pytest.approx(
        bf16.attention * 989e12 * gpu.reached.attention["flash3"] / fp32_speed
    )


def test_a_number_type_that_the_gpu_lacks() -> None:
    with pytest.raises(UserError, match="A100 SXM 80 GB has no fp8 rate; it has fp32, bf16"):
        estimate_speed(MODEL, replace(LAYOUT, precision="fp8"), load_gpu("a100"))
