"""Models of experts and adapters: memory and time against sums done by hand; what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.estimate.activations import layer_bytes_per_token
from megatron_math.estimate.hardware import Gpu, load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import checkpoint_bytes, rank_memory, stage_memory
from megatron_math.estimate.search import search
from megatron_math.estimate.speed import estimate_speed
from megatron_math.estimate.weights import stage_weights
from megatron_math.model.flops import training_flops_per_token
from megatron_math.model.lora_config import LoraConfig
from megatron_math.model.presets import load_preset

MIXTRAL, LLAMA = load_preset("mixtral-8x7b"), load_preset("llama3-8b")
LAYOUT = Layout(gpus=64, sequence_length=4096, global_batch=256, expert=8, pipeline=4)
LORA = LoraConfig(rank=16, alpha=32)
ADAPTED = Layout(gpus=8, sequence_length=8192, global_batch=64, lora=LORA)
EXPERT = 3 * 4096 * 14_336  # weights of one expert
ATTENTION = 2 * 4096 * (4096 + 1024)
GPU = Gpu.model_validate(
    {
        "name": "round",
        "architecture": "none",
        "memory_bytes": 10**11,
        "memory_bytes_per_second": 1e12,
        "peak_flops": {"bf16": 1e15},
        "gpus_per_node": 4,
        "node_bytes_per_second": 1e11,
        "network_bytes_per_second": 1e10,
        "watts": 1000,
        "shares": {
            "matmul": {"bf16": 0.5},
            "attention": {"flash2": 0.25, "flash3": 0.5},
            "memory": 1.0,
            "link": 1.0,
        },
        "sources": {},
    }
)


def test_state_of_a_mixtral_by_hand() -> None:
    """A stage of 8 layers, one expert of each; 16 GPUs a stage, so 2 copies of each expert."""
    dense = 8 * (ATTENTION + 10 * 4096) + 32_000 * 4096  # two norms and a router of eight rows
    experts = 8 * EXPERT
    found = stage_memory(MIXTRAL, LAYOUT, 0)
    assert found.weights == 2 * (dense + experts)
    assert found.gradients == 4 * (dense + experts)
    assert found.optimizer == 12 * dense // 16 + 12 * experts // 2
    assert checkpoint_bytes(MIXTRAL, LAYOUT) == 14 * 46_702_792_704


def test_tensor_ranks_take_experts_too_and_cut_none() -> None:
    one = replace(LAYOUT, pipeline=1)
    two = replace(one, tensor=2, sequence=True)
    for layout in (one, two):
        assert stage_weights(MIXTRAL, layout, 0).trained_experts == 32 * EXPERT
        assert layout.expert_shards == 8
    cut = (32 * ATTENTION + 2 * 32_000 * 4096) // 2
    assert stage_weights(MIXTRAL, one, 0).total - stage_weights(MIXTRAL, two, 0).total == cut


def test_what_a_layer_with_experts_keeps_by_hand() -> None:
    # Norms: input, output, scale, and input, scale; q, k, v; statistics; output; the router's fp32
    # copy; then twice an expert's input, gate and up, and their product. Besides, a few bytes.
    norms, attention = 2 * 8192 + 4 + 8192 + 4, 2 * (4096 + 2048) + 4 * 32 + 8192
    large = norms + attention + 4 * 4096 + 2 * (8192 + 2 * 28_672 + 28_672)
    assert 0 < layer_bytes_per_token(MIXTRAL, LAYOUT) - large < 256
    assert layer_bytes_per_token(MIXTRAL, replace(LAYOUT, recompute="full")) == 8192


def test_matrix_products_are_those_of_the_chosen_experts() -> None:
    layout = Layout(gpus=8, sequence_length=4096, global_batch=64)
    found = estimate_speed(MIXTRAL, layout, GPU)
    weights = 32 * (ATTENTION + 2 * EXPERT + 8 * 4096) + 32_000 * 4096
    assert found.step.matmul == pytest.approx(6 * 8 * 4096 * weights / 0.5e15)
    rate = found.tokens_per_second_per_gpu
    assert found.tflops_causal == pytest.approx(
        rate * training_flops_per_token(MIXTRAL, 4096) / 1e12
    )
    cut = estimate_speed(MIXTRAL, replace(layout, tensor=2, sequence=True, expert=2), GPU)
    assert cut.step.matmul == pytest.approx(found.step.matmul)  # half of it, twice as often


def test_tokens_travel_to_experts_and_back() -> None:
    inside = Layout(gpus=8, sequence_length=4096, global_batch=8, expert=4)
    # 32 layers, four trips of two copies of 4,096 tokens in bf16; a quarter stays at home.
    sent = 32 * 4 * 2 * 4096 * 4096 * 2
    found = estimate_speed(MIXTRAL, inside, GPU).step.expert_links
    assert found == pytest.approx(sent * 3 / 4 / 1e11)
    again = estimate_speed(MIXTRAL, replace(inside, recompute="full"), GPU).step.expert_links
    assert again == pytest.approx(1.5 * found)
    # Over two nodes half of the tokens leave by their GPU's own card, 1e10.
    wide = estimate_speed(MIXTRAL, replace(inside, expert=8), GPU).step.expert_links
    assert wide == pytest.approx(sent / 2 / 1e10)
    assert estimate_speed(MIXTRAL, replace(inside, expert=1), GPU).step.expert_links == 0


def test_copies_of_experts_add_their_gradients() -> None:
    layout = Layout(gpus=8, sequence_length=4096, global_batch=8, expert=4, overlap=False)
    dense = 32 * (ATTENTION + 10 * 4096) + 2 * 32_000 * 4096 + 4096
    experts = 32 * 2 * EXPERT
    # The rest's ring leaves each node of four by all its cards, 4e10; copies of an expert are four
    # ranks apart, one on each node, and have one card there.
    expected = 7 / 8 * dense * 6 / 4e10 + 1 / 2 * experts * 6 / 1e10
    assert estimate_speed(MIXTRAL, layout, GPU).step.data_links == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expert": 3}, "expert 3 does not divide the 8 experts of a layer"),
        ({"gpus": 16, "expert": 8}, "expert 8 does not divide the 4 GPUs of a stage"),
        ({"tensor": 2, "sequence": True, "expert": 1}, "needs sequence parallelism and expert 2"),
        ({"tensor": 2, "expert": 2}, "needs sequence parallelism and expert 2"),
        ({"sharding": "full"}, "experts under full sharding"),
        ({"lora": LORA}, r"adapts fc1 and fc2, and experts take no adapters.*\[qkv, proj\]"),
    ],
)
def test_layouts_of_experts_that_cannot_be_run(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(LAYOUT, **changes).check(MIXTRAL)


def test_a_dense_model_has_no_experts_to_deal_out() -> None:
    with pytest.raises(UserError, match="expert 2 of a model without experts"):
        replace(LAYOUT, expert=2).check(LLAMA)


@settings(deadline=None)
@given(
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    expert=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
def test_more_expert_ways_never_need_more(tensor: int, expert: int, **rest: object) -> None:
    expert = max(expert, tensor)
    layout = Layout(
        gpus=64,
        sequence_length=4096,
        global_batch=256,
        tensor=tensor,
        sequence=tensor > 1,
        expert=expert,
        **rest,  # type: ignore[arg-type]
    )
    layout.check(MIXTRAL)
    now, wider = (
        rank_memory(MIXTRAL, one)[0] for one in (layout, replace(layout, expert=2 * expert))
    )
    assert wider.weights < now.weights
    assert wider.gradients < now.gradients
    assert wider.optimizer == pytest.approx(now.optimizer, rel=1e-6)  # fewer copies to share it
    assert wider.activations == now.activations
    assert now.total == sum(vars(now).values())


def test_the_search_deals_experts_out() -> None:
    model = load_preset("mixtral-8x7b", {"num_layers": 8})
    asked = Layout(gpus=16, sequence_length=4096, global_batch=32)
    found = search(model, asked, load_gpu("h100"))
    assert {choice.layout.expert for choice in found} == {1, 2, 4, 8}
    for choice in found:
        assert choice.layout.fault(model) is None
        assert choice.memory == rank_memory(model, choice.layout)[0]
    whole = [choice.memory.weights for choice in found if choice.layout.expert == 1]
    assert min(choice.memory.weights for choice in found) < min(whole)
    small = load_gpu("h100").model_copy(update={"memory_bytes": 40 * 10**9})
    on_one_stage = [c for c in search(model, asked, small) if c.layout.pipeline == 1]
    assert on_one_stage
    assert all(choice.layout.expert > 1 for choice in on_one_stage)


def test_adapters_by_hand() -> None:
    # qkv 4,096 -> 6,144, proj 4,096 -> 4,096, fc1 4,096 -> 28,672, fc2 14,336 -> 4,096.
    trained = 32 * 16 * (10_240 + 8192 + 32_768 + 18_432)
    assert trained == LORA.num_parameters(LLAMA)
    found = stage_memory(LLAMA, ADAPTED, 0)
    assert found.weights == 2 * (8_030_261_248 + trained)
    assert found.gradients == 4 * trained
    assert found.optimizer == 12 * trained // 8
    assert checkpoint_bytes(LLAMA, ADAPTED) == 2 * 8_030_261_248 + 14 * trained
    cut = stage_weights(LLAMA, replace(ADAPTED, tensor=2), 0).trained
    assert cut == 32 * 16 * (4096 + 3072 + 2048 + 4096 + 4096 + 14_336 + 7168 + 4096)


def test_adapters_save_the_gradients_of_frozen_weights() -> None:
    whole = estimate_speed(LLAMA, replace(ADAPTED, lora=None), GPU)
    found = estimate_speed(LLAMA, ADAPTED, GPU)
    tokens = 8 * 8192
    frozen = tokens * 2 * (32 * (ATTENTION + EXPERT) + 128_256 * 4096) / 0.5e15
    trained = tokens * 6 * LORA.num_parameters(LLAMA) / 0.5e15
    assert found.step.matmul == pytest.approx(whole.step.matmul - frozen + trained)
    flops = training_flops_per_token(LLAMA, 8192, lora=LORA)
    assert found.tflops_causal == pytest.approx(found.tokens_per_second_per_gpu * flops / 1e12)
    assert found.step.optimizer < whole.step.optimizer / 100
    # Six times in- and outputs of each map in bf16, less twice the frozen weights' fp32 gradients.
    moved = tokens * 32 * 6 * (10_240 + 8192 + 32_768 + 18_432) * 2
    moved -= 8 * 8 * (8_030_261_248 - LORA.num_parameters(LLAMA))
    more = found.step.elementwise - whole.step.elementwise
    assert more == pytest.approx(moved / 1e12)


def test_torch_layers_keep_less_beside_frozen_weights() -> None:
    plain = replace(ADAPTED, fused=False)
    whole = layer_bytes_per_token(LLAMA, replace(plain, lora=None))
    # The normed input of both norms is for their own weights; 16 wide in bf16, four times.
    assert layer_bytes_per_token(LLAMA, plain) == whole - 2 * 8192 + 4 * 32
    few = LoraConfig(rank=16, alpha=32, targets=("qkv",))
    without = whole - 2 * 8192 - 8192 - 28_672 + 32  # and the inputs of fc1 and fc2
    assert layer_bytes_per_token(LLAMA, replace(plain, lora=few)) in (without, without - 8192)


def test_adapters_beside_experts() -> None:
    few = LoraConfig(rank=16, alpha=32, targets=("qkv", "proj"))
    layout = replace(LAYOUT, lora=few, fused=False)
    layout.check(MIXTRAL)
    held = stage_weights(MIXTRAL, layout, 0)
    assert (held.trained, held.trained_experts) == (8 * 16 * (10_240 + 8192), 0)
    assert layer_bytes_per_token(MIXTRAL, layout) < layer_bytes_per_token(
        MIXTRAL, replace(layout, lora=None)
    )


def test_a_layout_goes_through_json() -> None:
    for layout in (LAYOUT, ADAPTED):
        assert Layout.from_json(layout.to_json()) == layout
