"""The grid's arithmetic and the sentences it says when it cannot."""

import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid


def test_data_parallelism_is_what_is_left_of_the_world():
    assert Grid(tensor=2, pipeline=2).data(8) == 2
    assert Grid(tensor=2, context=2).data(4) == 1
    assert Grid().data(6) == 6


def test_a_world_that_does_not_divide_prints_the_product():
    text = "asked tensor 2 x pipeline 2 x context 1 = 4 does not divide world 6"
    with pytest.raises(UserError, match=text):
        Grid(tensor=2, pipeline=2).data(6)
    with pytest.raises(UserError, match="does not divide world 2"):
        Grid(tensor=4).data(2)


def test_experts_are_dealt_out_inside_a_pipeline_stage():
    assert Grid(expert=2).data(4) == 4
    assert Grid(expert=8, tensor=2, pipeline=2).data(16) == 4
    says = "asked expert 4 does not divide tensor 2 x context 1 x data 3 = 6"
    with pytest.raises(UserError, match=says):
        Grid(expert=4, tensor=2, pipeline=2).data(12)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"tensor": 0}, "parallel.tensor.*greater than or equal to 1"),
        ({"virtual": 2}, "virtual 2 has no effect with pipeline 1"),
        ({"sequence": True}, "sequence: true has no effect with tensor 1"),
        ({"tensr": 2}, "did you mean 'tensor'"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(raw, says):
    with pytest.raises(UserError, match=says):
        parse_section(Grid, raw, "parallel")
