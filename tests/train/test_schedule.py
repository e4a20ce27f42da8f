"""Learning rates against closed forms, and what a schedule refuses."""

import math

import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.train.config import TrainConfig
from megatron_math.train.schedule import learning_rate


def config(**settings: object) -> TrainConfig:
    return parse_section(TrainConfig, {"global_batch_size": 8, "lr": 1e-4, **settings}, "train")


def test_cosine_of_mathgpt_8b() -> None:
    """25,000 steps from 1e-4 to 1e-5 (papers: MathGPT-8B)."""
    train = config(schedule="cosine", min_lr=1e-5, warmup_share=0.01)
    assert learning_rate(train, 0, 25_000) == pytest.approx(1e-4 / 250)
    assert learning_rate(train, 249, 25_000) == pytest.approx(1e-4)
    middle = 250 + 24_750 // 2 - 1
    assert learning_rate(train, middle, 25_000) == pytest.approx(5.5e-5)
    quarter = (1 + math.cos(math.pi / 4)) / 2
    at_quarter = learning_rate(train, 250 + 24_750 // 4 - 1, 25_000)
    assert at_quarter == pytest.approx(1e-5 + 9e-5 * quarter, rel=1e-4)
    assert learning_rate(train, 24_999, 25_000) == pytest.approx(1e-5)


def test_wsd_of_jiuzhang3() -> None:
    """3 % warm-up, flat to 85 %, then linear to a tenth (papers: JiuZhang3.0)."""
    train = config(schedule="wsd", lr=1e-5, min_lr=1e-6, warmup_share=0.03)
    rates = [learning_rate(train, i, 1000) for i in range(1000)]
    assert rates[29] == rates[30] == rates[849] == 1e-5
    assert rates[850] == pytest.approx(1e-5 - 9e-6 / 150)
    assert rates[924] == pytest.approx(5.5e-6)
    assert rates[999] == pytest.approx(1e-6)
    assert all(a < b for a, b in zip(rates[:29], rates[1:30], strict=True))


def test_multistep_of_deepseekmath() -> None:
    train = config(schedule="multistep", lr=4.2e-4, warmup_share=0)
    shares = [learning_rate(train, i, 100) / 4.2e-4 for i in (0, 79, 80, 89, 90, 99)]
    assert shares == pytest.approx([1, 1, 0.316, 0.316, 0.1, 0.1])


def test_constant_stays() -> None:
    train = config(schedule="constant", warmup_share=0)
    assert {learning_rate(train, i, 50) for i in range(50)} == {1e-4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_lr": 1e-3}, "min_lr 0.001 is above lr"),
        ({"decay_share": 0.2}, "decay_share has no effect with schedule: cosine"),
        ({"schedule": "constant", "min_lr": 1e-5}, "min_lr has no effect"),
        ({"schedule": "wsd", "warmup_share": 0.9, "decay_share": 0.5}, "exceed the whole run"),
        ({"warmup_steps": 5}, "did you mean 'warmup_share'"),
    ],
)
def test_settings_without_effect_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**settings)
