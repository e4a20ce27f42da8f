"""Memory of one rank against sums done by hand, and what may never grow."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.estimate import memory as room
from megatron_math.estimate.activations import layer_bytes_per_token
from megatron_math.estimate.hardware import load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import (
    DRIVER_BYTES,
    Memory,
    check_fit,
    checkpoint_bytes,
    in_flight_layers,
    rank_memory,
    stage_memory,
)
from megatron_math.estimate.weights import stage_weights
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import PRESETS, load_preset

TINY = ModelConfig(
    hidden_size=64,
    num_layers=4,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=128,
    vocab_size=1000,  # 1,024 rows
    max_sequence_length=32,
)
TINY_LAYOUT = Layout(
    gpus=4, sequence_length=32, global_batch=8, micro_batch=2, tensor=2, sequence=True, pipeline=2
)
# Stage 0 holds two layers and the embedding. A layer's matrices: 64 x (2 x 64 + 2 x 32) for
# attention, 3 x 64 x 128 for the MLP, 36,864 in all, halved over tensor ranks; norms are whole.
TINY_FIRST = 2 * (36_864 // 2 + 2 * 64) + 512 * 64  # 69,888
TINY_LAST = TINY_FIRST + 64  # output rows in the embedding's place, and the final norm
# One token, one layer, bf16. Cut by sequence parallelism: two norm inputs and outputs, 4 x 128
# bytes, and their scales, 2 x 4. By tensor parallelism: q, k, v 256; statistics 16; attention's
# output 128; gate and up 512, their product 256.
TINY_LAYER = (4 * 128 + 2 * 4) // 2 + (256 + 16 + 128 + 512 + 256) // 2  # 844


def memory(tensors: dict[str, int]) -> Memory:
    kinds = dict.fromkeys(
        ("weights", "gradients", "optimizer", "activations", "working", "logits"), 0
    )
    kinds |= tensors
    return Memory(**kinds, fragmentation=int(0.03 * sum(kinds.values())), driver=DRIVER_BYTES)


def tiny_by_hand() -> list[Memory]:
    # 64 tokens; gradients of one layer's widest tensors: 2 x 128 / 2 + 3 x 256 / 2 a token.
    working = 64 * (128 + 384)
    return [
        memory(
            {
                "weights": 2 * TINY_FIRST,
                "gradients": 4 * TINY_FIRST,
                "optimizer": 12 * TINY_FIRST,
                "activations": 2 * 2 * 64 * TINY_LAYER,  # two micro-batches in flight
                "working": working,
            }
        ),
        memory(
            {
                "weights": 2 * TINY_LAST,
                "gradients": 4 * TINY_LAST,
                "optimizer": 12 * TINY_LAST,
                "activations": 2 * 64 * TINY_LAYER,
                "working": working,
                "logits": 64 * (6 * 512 + 2 * 128 // 2),
            }
        ),
    ]


def test_a_small_layout_is_the_sum_done_by_hand() -> None:
    found = [stage_memory(TINY, TINY_LAYOUT, stage) for stage in (0, 1)]
    assert found == tiny_by_hand()
    assert found[0].activations == 216_064
    assert rank_memory(TINY, TINY_LAYOUT) == (found[1], 1)


@pytest.mark.parametrize("fault", ["in_flight_layers", "layer_bytes_per_token"])
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = getattr(room, fault)
    monkeypatch.setattr(room, fault, lambda *arguments: true(*arguments) + 1)
    assert [stage_memory(TINY, TINY_LAYOUT, stage) for stage in (0, 1)] != tiny_by_hand()


def test_eight_billion_parameters_by_hand() -> None:
    layout = Layout(
        gpus=64, sequence_length=8192, global_batch=1024, tensor=2, sequence=True, context=2
    )
    held = 32 * (218_103_808 // 2 + 8192) + 2 * 64_128 * 4096 + 4096
    assert held == 4_015_263_744
    # 4,096 tokens a rank. A layer and token: (4 x 8,192 + 8) / 2 for the norms, then
    # (12,288 + 128 + 8,192 + 57,344 + 28,672) / 2 = 53,312.
    assert layer_bytes_per_token(load_preset("llama3-8b"), layout) == 16_388 + 53_312
    assert rank_memory(load_preset("llama3-8b"), layout)[0] == memory(
        {
            "weights": 8_030_527_488,
            "gradients": 16_061_054_976,
            "optimizer": 12 * held // 32,
            "activations": 4096 * 32 * 69_700,
            "working": 4096 * (8192 + 43_008),
            "logits": 4096 * (6 * 64_128 + 8192),
        }
    )


def test_state_of_eight_billion_parameters_on_one_gpu() -> None:
    layout = Layout(
        gpus=1,
        sequence_length=8192,
        global_batch=1,
        gradient_bytes=2,
        master_bytes=2,
        moment_bytes=2,
    )
    found, _ = rank_memory(load_preset("llama3-8b"), layout)
    state = found.weights + found.gradients + found.optimizer
    assert state == 10 * 8_030_261_248


def test_recomputation_by_mode_and_number_type() -> None:
    layout = Layout(gpus=1, sequence_length=32, global_batch=1)

    def kept(**changes: object) -> int:
        return layer_bytes_per_token(TINY, replace(layout, **changes))  # type: ignore[arg-type]

    assert kept() == 512 + 8 + 256 + 16 + 128 + 768
    assert kept(recompute="selective") == kept() - 16
    assert kept(recompute="full") == 128
    assert kept(recompute="operators") == 128 + 2 * (64 + 32 + 128 + 64) + 128 + 16
    # fp8 keeps the inputs of the four products in one byte, and attention's output beside its own.
    assert kept(precision="fp8") == kept() - 2 * 64 + 64 - 128
    assert kept(precision="fp32") == 2 * (kept() - 8 - 16) + 8 + 16


def test_weights_in_fp8() -> None:
    layout = replace(TINY_LAYOUT, precision="fp8")
    cast = 2 * 36_864 // 2  # the matrices of two layers, halved over tensor ranks
    assert stage_memory(TINY, layout, 0).weights == 2 * TINY_FIRST + 2 * cast
    alone = replace(layout, fp8_weights=True)
    assert stage_memory(TINY, alone, 0).weights == 2 * TINY_FIRST


def test_micro_batches_in_flight() -> None:
    layout = Layout(gpus=4, sequence_length=32, global_batch=64, pipeline=4)
    model = TINY.model_copy(update={"num_layers": 16})
    assert [in_flight_layers(model, layout, stage) for stage in range(4)] == [16, 12, 8, 4]
    short = replace(layout, global_batch=2)
    assert [in_flight_layers(model, short, stage) for stage in range(4)] == [8, 8, 8, 4]
    # Interleaved, first stage: all layers times 1 + (p - 1) / (p v), Korthikanti et al. 2022.
    virtual = replace(layout, virtual=2)
    assert in_flight_layers(model, virtual, 0) == 16 * (1 + 3 / 8)


def test_uneven_stages() -> None:
    model = TINY.model_copy(update={"num_layers": 14})
    layout = Layout(
        gpus=4,
        sequence_length=32,
        global_batch=4,
        pipeline=4,
        first_stage_layers=3,
        last_stage_layers=3,
    )
    assert layout.stage_layers(model) == [3, 4, 4, 3]
    layout.check(model)
    with pytest.raises(UserError, match="14 layers cannot be spread over 4 stages"):
        replace(layout, last_stage_layers=None).check(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_add_up_to_the_published_count(preset: str) -> None:
    model = load_preset(preset)
    layout = Layout(gpus=1, sequence_length=32, global_batch=1)
    padding = (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    tables = 1 if model.tied_embeddings else 2
    found = stage_weights(model, layout, 0).total
    assert found == model.num_parameters() + tables * padding
    assert checkpoint_bytes(model, layout) == found * 14


POWERS = st.sampled_from([1, 2, 4])


@given(
    tensor=POWERS,
    pipeline=POWERS,
    context=POWERS,
    data=POWERS,
    virtual=st.sampled_from([1, 2]),
    sequence=st.booleans(),
    recompute=st.sampled_from(["none", "selective", "operators", "full"]),
    precision=st.sampled_from(["fp32", "bf16", "fp8"]),
    sharding=st.sampled_from(["optimizer", "full"]),
)
def test_more_ranks_and_more_recomputation_never_need_more(
    tensor: int,
    pipeline: int,
    context: int,
    data: int,
    virtual: int,
    **rest: object,
) -> None:
    model = load_preset("llama3-8b")
    layout = Layout(
        gpus=tensor * pipeline * context * data,
        sequence_length=8192,
        global_batch=16 * data,
        tensor=tensor,
        pipeline=pipeline,
        context=context,
        virtual=virtual if pipeline > 1 else 1,
        **rest,  # type: ignore[arg-type]
    )
    layout.check(model)
    for stage in range(pipeline):
        now = stage_memory(model, layout, stage)
        assert now.total == sum(vars(now).values())

        def after(stage: int = stage, **changes: object) -> Memory:
            changed = replace(layout, **changes)  # type: ignore[arg-type]
            return stage_memory(model, changed, stage)

        wider = after(tensor=2 * tensor, gpus=2 * layout.gpus)
        assert wider.weights <= now.weights
        assert wider.activations <= now.activations
        assert wider.logits <= now.logits
        longer = after(context=2 * context, gpus=2 * layout.gpus)
        assert longer.activations <= now.activations
        assert longer.optimizer <= now.optimizer
        assert longer.weights <= now.weights
        more = after(gpus=layout.gpus * 2, global_batch=layout.global_batch * 2)
        assert more.optimizer <= now.optimizer
        assert more.activations == now.activations
        modes = [after(recompute=mode).activations for mode in ("none", "selective", "full")]
        assert modes == sorted(modes, reverse=True)
        assert after(recompute="operators").activations <= modes[0]
        assert after(micro_batch=2).activations >= now.activations


def test_the_refusal_names_the_largest_term_and_its_size() -> None:
    layout = Layout(gpus=8, sequence_length=8192, global_batch=64)
    found, stage = rank_memory(load_preset("llama3-8b"), layout)
    with pytest.raises(UserError, match=r"largest term is activations with 34\.\d GiB: recompute"):
        check_fit(found, stage, load_gpu("h100"))
    found, stage = rank_memory(
        load_preset("llama3-8b"), replace(layout, gpus=1, recompute="full", sequence_length=512)
    )
    with pytest.raises(UserError, match=r"largest term is optimizer with 89\.7 GiB: use more"):
        check_fit(found, stage, load_gpu("h100"))
    # 2 + 4 + 12 bytes a parameter, and little beside them but the allocator's share.
    assert found.total == pytest.approx(18 * 8.03e9 * 1.03 + DRIVER_BYTES, rel=0.01)


def test_what_fits_exactly_is_not_refused() -> None:
    found, stage = rank_memory(TINY, TINY_LAYOUT)
    gpu = load_gpu("h100").model_copy(update={"memory_bytes": found.total})
    check_fit(found, stage, gpu)
    with pytest.raises(UserError):
        check_fit(found, stage, gpu.model_copy(update={"memory_bytes": found.total - 1}))
