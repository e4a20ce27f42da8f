"""Scaling, casting and products of every FP8 recipe against numbers worked out by hand.

E4M3 has 3 bits behind the leading one: between 16 and 32 its values are 2 apart, below 2^-6 they
are 2^-9 apart, the largest is 448. E5M2 has 2 bits, largest 57,344.
"""

import math

import pytest
import torch

from megatron_math.model.config import ModelConfig
from megatron_math.model.fp8_config import Fp8Config

NAN, INF = math.nan, math.inf
FP32_MAX = torch.finfo(torch.float32).max


@pytest.fixture(scope="module")
def fp8(device):
    """The module under test; the device is open, since megatron.core wants its patches first."""
    from megatron_math.model import fp8

    return fp8


CASTS = {
    # value: (in E4M3, in E5M2)
    1.0: (1.0, 1.0),
    0.3: (0.3125, 0.3125),  # 1.2 x 2^-2: 1.25 is nearest in both
    1.1: (1.125, 1.0),
    17.0: (16.0, 16.0),  # halfway from 16 to 18: to the even one
    27.0: (28.0, 28.0),  # halfway from 26 (odd) to 28
    -500.0: (-448.0, -512.0),
    70000.0: (448.0, 57344.0),
    INF: (448.0, 57344.0),
    -INF: (-448.0, -57344.0),
    0.0012: (0.001953125, 0.001220703125),  # under 2^-6: multiples of 2^-9; E5M2: 1.25 x 2^-10
    0.0009: (0.0, 0.0008544921875),  # nearer to 0 than to 2^-9; E5M2: 1.75 x 2^-11
}


@pytest.mark.parametrize("value", CASTS)
def test_casts_round_to_nearest_and_saturate(fp8, value: float) -> None:
    for kind, wanted in zip((fp8.E4M3, fp8.E5M2), CASTS[value], strict=True):
        assert fp8.cast(torch.tensor([value]), torch.ones(()), kind).float().item() == wanted


def test_nan_stays_visible(fp8) -> None:
    for kind in (fp8.E4M3, fp8.E5M2):
        assert fp8.cast(torch.tensor([NAN]), torch.ones(()), kind).float().isnan().all()


@pytest.mark.parametrize(
    ("amax", "scale", "power_of_two"),
    [
        (2.0, 224.0, 128.0),
        (448.0, 1.0, 1.0),
        (450.0, 448.0 / 450.0, 0.5),
        (3.0, 448.0 / 3.0, 128.0),
        (0.0, 1.0, 1.0),
        (INF, 1.0, 1.0),
        (NAN, 1.0, 1.0),
        (1e-38, FP32_MAX, 2.0**127),  # 448 / 1e-38 is beyond fp32
    ],
)
def test_current_scale(fp8, amax: float, scale: float, power_of_two: float) -> None:
    one = torch.tensor(amax)
    assert fp8.current_scale(one, fp8.E4M3).item() == pytest.approx(scale, rel=1e-7)
    assert fp8.current_scale(one, fp8.E4M3, power_of_two=True).item() == power_of_two


def test_by_tensor(fp8) -> None:
    values = torch.tensor([[0.5, -2.0, 0.1]])
    # amax 2: E4M3 scale 224, so 0.1 -> 22.4 -> 22; E5M2 scale 28,672, so 0.1 -> 2867.2 -> 3072.
    in_e4m3 = fp8.by_tensor(values, fp8.E4M3).whole()
    assert torch.allclose(in_e4m3, torch.tensor([[0.5, -2.0, 22 / 224]]), rtol=1e-6, atol=0)
    in_e5m2 = fp8.by_tensor(values, fp8.E5M2).whole()
    assert torch.allclose(in_e5m2, torch.tensor([[0.5, -2.0, 3072 / 28672]]), rtol=1e-6, atol=0)
    assert fp8.by_tensor(torch.zeros(2, 3), fp8.E4M3).whole().equal(torch.zeros(2, 3))


def test_by_block_of_a_row(fp8) -> None:
    values = torch.zeros(2, 200)
    values[0, 0], values[0, 127] = 1.1, 3.0  # scale 128: 1.1 -> 140.8 -> 144 (16 apart)
    values[0, 128], values[0, 199] = 100.0, 450.0  # scale 1/2: 100 -> 50 -> 48 (halfway, even)
    values[1, 0] = 1.1  # amax 1.1: 448 / 1.1 = 407.3, scale 256: 281.6 -> 288 (32 apart)
    whole = fp8.by_block(values, fp8.E4M3, 1, 128).whole()
    seen = [whole[at].item() for at in ((0, 0), (0, 127), (0, 128), (0, 199), (1, 0))]
    assert seen == [1.125, 3.0, 96.0, 448.0, 1.125]  # 450 / 2 = 225 -> 224
    columns = fp8.by_block(values.T.contiguous(), fp8.E4M3, 128, 1)
    assert columns.whole().T.equal(whole)
    assert columns.inverse.shape == (2, 2)


def test_by_square_block(fp8) -> None:
    weight = torch.zeros(130, 129)
    weight[0, 0], weight[127, 127] = 1.1, 3.0
    weight[128, 0] = 448.0
    weight[0, 128] = 0.75  # alone in its block: 448 / 0.75 = 597.3, scale 512
    quantized = fp8.by_block(weight, fp8.E4M3, 128, 128)
    assert (1 / quantized.inverse).tolist() == [[128.0, 512.0], [1.0, 1.0]]
    whole = quantized.whole()
    assert [whole[0, 0].item(), whole[127, 127].item(), whole[128, 0].item()] == [1.125, 3.0, 448.0]
    assert whole[0, 128].item() == 0.75


def update_with(fp8, amaxes: list[float], *, history: int, margin: int = 0) -> list[float]:
    """Scale after each pass, with these largest values, from scale 1 and an empty history."""
    history_N1, scale, largest = torch.zeros(history, 1), torch.ones(1), torch.tensor([448.0])
    scales = []
    for amax in amaxes:
        history_N1[0] = amax
        fp8.delayed_update(history_N1, scale, largest, margin)
        assert history_N1[0] == 0
        scales.append(scale.item())
    return scales


@pytest.mark.parametrize(
    ("history", "margin", "amaxes", "scales"),
    [
        # 8 is the largest of its own pass and of the two after it.
        (3, 0, [2, 8, 1, 1, 1], [224, 56, 56, 56, 448]),
        (1, 0, [2, 8, 1], [224, 56, 448]),  # most_recent
        (2, 3, [2, 1, 1], [28, 28, 56]),  # 2^3 of room
        (2, 0, [0, 2, 0, 0, 0], [1, 224, 224, 224, 224]),  # nothing known: as before
        (2, 0, [4, INF, 2, 2], [112, 112, 112, 224]),  # not finite: as before, while remembered
        (2, 0, [4, NAN, 2, 2], [112, 112, 112, 224]),
        (1, 0, [1e-38], [FP32_MAX]),
    ],
)
def test_delayed_update(fp8, history, margin, amaxes, scales) -> None:
    assert update_with(fp8, amaxes, history=history, margin=margin) == pytest.approx(scales)


def fc1(build, recipe: str, **settings):
    """The first linear layer of an MLP with input width 32, all weights zero but three."""
    config = ModelConfig(
        hidden_size=32, num_layers=2, num_attention_heads=4, num_query_groups=2,
        ffn_hidden_size=48, vocab_size=100, max_sequence_length=64,
    )  # fmt: skip
    model = build(config, fp8=Fp8Config(recipe=recipe, backend="emulate", **settings))
    linear = model.decoder.layers[1].mlp.linear_fc1
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0, 0], linear.weight[0, 1], linear.weight[1, 0] = 1.0, 0.3, 1.0
    return linear


def one_pass(linear) -> tuple[float, float, float]:
    """(an output, a gradient of the input, a gradient of the weight) of one token.

    Input 2.0 and 0.1, weights 1.0 and 0.3, gradients 2.0 and 0.1.
    """
    linear.weight.grad = None
    hidden_SBH = torch.zeros(1, 1, 32)
    hidden_SBH[0, 0, 0], hidden_SBH[0, 0, 1] = 2.0, 0.1
    hidden_SBH.requires_grad_()
    output_SBO, _ = linear(hidden_SBH)
    gradient_SBO = torch.zeros_like(output_SBO)
    gradient_SBO[0, 0, 0], gradient_SBO[0, 0, 1] = 2.0, 0.1
    output_SBO.backward(gradient_SBO)
    return (
        output_SBO[0, 0, 0].item(),
        hidden_SBH.grad[0, 0, 0].item(),
        linear.weight.grad[1, 0].item(),
    )


# 0.1 in E4M3 under scale 224 and the weight 0.3 under scale 448 (134.4 -> 128, 16 apart).
TENTH, THREE_TENTHS = 22 / 224, 128 / 448


def test_tensorwise_is_e4m3_forward_and_e5m2_backward(build) -> None:
    tenth_in_e5m2 = 3072 / 28672
    expected = (2 + TENTH * THREE_TENTHS, 2 + tenth_in_e5m2, tenth_in_e5m2 * 2)
    assert one_pass(fc1(build, "tensorwise")) == pytest.approx(expected, rel=1e-6)


def test_blockwise_is_e4m3_in_both_directions(build) -> None:
    # Input scale 128: 0.1 -> 12.8 -> 13; weight scale 256: 0.3 -> 76.8 -> 80 (8 apart).
    tenth, three_tenths = 13 / 128, 80 / 256
    expected = (2 + tenth * three_tenths, 2 + tenth, tenth * 2)
    assert one_pass(fc1(build, "blockwise")) == pytest.approx(expected, rel=1e-6)


def test_delayed_uses_the_scale_of_earlier_passes(build) -> None:
    from megatron_math.model.fp8 import begin_step

    linear = fc1(build, "delayed", amax_history=4)
    recipe = linear.fp8_recipe
    # First pass, scale 1: 0.1 is 1.625 x 2^-4 in E4M3 and 1.5 x 2^-4 in E5M2, 0.3 is 0.3125.
    expected = (2 + 0.1015625 * 0.3125, 2 + 0.09375, 0.09375 * 2)
    assert one_pass(linear) == pytest.approx(expected, rel=1e-6)
    assert recipe.scale_3.tolist() == [224.0, 448.0, 28672.0]
    assert recipe.history_N3[-1].tolist() == [2.0, 1.0, 2.0]

    # Second micro-batch: new scales, but the weight is still the one cast in the first.
    tenth_in_e5m2 = 3072 / 28672
    expected = (2 + TENTH * 0.3125, 2 + tenth_in_e5m2, tenth_in_e5m2 * 2)
    assert one_pass(linear) == pytest.approx(expected, rel=1e-6)
    assert recipe.history_N3[-1].tolist() == [2.0, 0.0, 2.0]

    # Next step: the weight is cast anew.
    begin_step([linear])
    assert one_pass(linear)[0] == pytest.approx(2 + TENTH * THREE_TENTHS, rel=1e-6)
    assert recipe.history_N3[-1].tolist() == [2.0, 1.0, 2.0]


def test_evaluation_and_shadow_passes_leave_no_trace(build) -> None:
    from megatron_math.model.fp8 import begin_step, without_fp8

    linear = fc1(build, "delayed", amax_history=4)
    one_pass(linear)
    before = linear.fp8_recipe.state()
    hidden_SBH = torch.full((1, 1, 32), 100.0)
    linear.eval()
    with torch.no_grad():
        linear(hidden_SBH)
        with without_fp8([linear]):
            assert linear(hidden_SBH)[0][0, 0, 0].item() == pytest.approx(130.0)
    linear.train()
    assert linear.fp8_recipe.state().equal(before)
    begin_step([linear])
    assert one_pass(linear)[0] == pytest.approx(2 + TENTH * THREE_TENTHS, rel=1e-6)


def test_a_state_of_another_length_keeps_the_newest(fp8, device) -> None:
    long, short = fp8.Delayed(0, 5), fp8.Delayed(0, 3)
    long.history_N3[1:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    long.scale_3[:] = torch.tensor([7.0, 8.0, 9.0])
    short.load(long.state())
    assert short.history_N3[:, 0].tolist() == [0.0, 3.0, 4.0]
    assert short.scale_3.tolist() == [7.0, 8.0, 9.0]
    long.load(short.state())
    assert long.history_N3[:, 0].tolist() == [0.0, 0.0, 0.0, 3.0, 4.0]
    single = fp8.Delayed(0, 1)
    single.load(long.state())
    assert single.history_N3.tolist() == [[0.0, 0.0, 0.0]]


def test_only_the_decoders_linear_layers_are_in_fp8(build, tiny, fp8) -> None:
    settings = Fp8Config(recipe="tensorwise", backend="emulate", first_layers_bf16=1)
    model = build(tiny, fp8=settings)
    names = {name for name, module in model.named_modules() if isinstance(module, fp8.Fp8Linear)}
    assert names == {
        f"decoder.layers.1.{name}"
        for name in (
            "self_attention.linear_qkv", "self_attention.linear_proj",
            "mlp.linear_fc1", "mlp.linear_fc2",
        )
    }  # fmt: skip


def test_weights_that_are_frozen_get_no_gradient(build) -> None:
    linear = fc1(build, "tensorwise")
    linear.weight.requires_grad_(False)
    hidden_SBH = torch.ones(1, 1, 32, requires_grad=True)
    linear(hidden_SBH)[0].sum().backward()
    assert linear.weight.grad is None
    assert hidden_SBH.grad[0, 0, 0].item() == 2.0
