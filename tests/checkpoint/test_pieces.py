"""Any range of a flattened tensor is cut into rectangles that hold exactly its values, in order."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.checkpoint.pieces import boxes


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    start = draw(st.integers(0, math.prod(shape)))
    return shape, start, draw(st.integers(start, math.prod(shape)))


@given(ranges())
@settings(deadline=None)
def test_boxes_are_the_range(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, end = case
    whole = torch.arange(math.prod(shape)).reshape(shape)
    found = list(boxes(shape, start, end))
    values = [
        whole[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))].reshape(-1)
        for offset, size in found
    ]
    assert [len(value) for value in values] == [math.prod(size) for _, size in found]
    flat = torch.cat(values).tolist() if values else []
    assert flat == list(range(start, end))
    assert len(found) <= max(1, 2 * len(shape) - 1)


def test_by_hand() -> None:
    assert list(boxes((4, 3), 2, 10)) == [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
    assert list(boxes((4, 3), 4, 5)) == [((1, 1), (1, 1))]
    assert list(boxes((), 0, 1)) == [((), ())]
    assert list(boxes((4, 3), 6, 6)) == []
