"""The keyed permutation and what is read through it: a bijection, without a pull, as its twin."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import order, reference_order

KEYS = st.integers(0, 2**64 - 1)
# Sizes at which the grid is exact, one point too small, one row longer than wide.
NEAR_SQUARES = st.integers(1, 2**31).flatmap(
    lambda root: st.integers(max(1, root * root - 2), min(2**62, root * root + 2))
)
SIZES = st.one_of(st.integers(1, 5000), st.integers(1, 2**40), st.integers(1, 2**62), NEAR_SQUARES)


def whole(key, num_items):
    return order.permute(key, num_items, 0, num_items)


def chi_square_z(counts):
    """How many standard deviations the counts lie from even ones (about normal for many cells)."""
    counts = np.asarray(counts, dtype=float).ravel()
    degrees = len(counts) - 1
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum() - degrees) / math.sqrt(
        2 * degrees
    )


# --- a bijection, equal to its twin --------------------------------------------------------------


def test_every_small_size_is_permuted():
    for num_items in [*range(1, 300), 4095, 4096, 4097, 65_536, 65_537]:
        for key in (0, 1, 2**64 - 1):
            images = whole(key, num_items)
            assert np.array_equal(np.sort(images), np.arange(num_items))
            assert np.array_equal(images, reference_order.permute(key, num_items, 0, num_items))


@given(key=KEYS, num_items=SIZES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_stretch_of_any_size_equals_its_twin_and_repeats_nothing(key, num_items, data):
    count = data.draw(st.integers(0, min(num_items, 700)))
    first = data.draw(st.integers(0, num_items - count))
    images = order.permute(key, num_items, first, count)
    assert np.array_equal(images, reference_order.permute(key, num_items, first, count))
    assert len(set(images.tolist())) == count
    assert all(0 <= image < num_items for image in images.tolist())


def test_a_million_items_are_permuted():
    images = whole(3, 1_000_003)
    assert np.array_equal(np.sort(images), np.arange(1_000_003))


def test_no_image_comes_twice_in_a_sample_of_2_to_the_40():
    """Far stretches of one permutation: 200,000 points, no two with one image."""
    num_items = 2**40 - 3
    firsts = np.linspace(0, num_items - 1000, 200).astype(np.int64)
    images = np.concatenate([order.permute(11, num_items, int(f), 1000) for f in firsts])
    assert len(np.unique(images)) == len(images) == 200_000


def test_the_order_never_changes():
    """Plans on disk rely on it. These numbers may change only with the plan's version."""
    assert order.permute(0, 10, 0, 10).tolist() == [1, 3, 6, 5, 4, 0, 8, 7, 2, 9]
    assert order.permute(2**63 + 5, 10**12, 10**11, 3).tolist() == [
        730250567451,
        752284415130,
        146585649708,
    ]


# --- it looks random -----------------------------------------------------------------------------


def spread(images, num_items, cells=64):
    return np.bincount(images * cells // num_items, minlength=cells)


def test_tiny_orders_are_all_as_frequent():
    """All 24 orders of 4 documents and all 120 of 5, over keys that count up."""
    for num_items in (4, 5):
        num_orders = math.factorial(num_items)
        orders = {p: i for i, p in enumerate(itertools.permutations(range(num_items)))}
        counts = np.zeros(num_orders)
        for key in range(200 * num_orders):
            counts[orders[tuple(whole(key, num_items).tolist())]] += 1
        assert abs(chi_square_z(counts)) < 4


@pytest.mark.parametrize("num_items", [1000, 4096, 99_991, 2**24 + 1, 10**9, 2**40])
def test_no_position_is_drawn_to_any_place(num_items):
    """Images of the first, a middle and the last stretch over many keys fill all cells evenly."""
    count = min(num_items // 4, 128)
    for first in (0, num_items // 2, num_items - count):
        images = np.concatenate(
            [order.permute(key, num_items, first, count)[:16] for key in range(4000)]
        )
        assert abs(chi_square_z(spread(images, num_items, 50))) < 5


@pytest.mark.parametrize("num_items", [5000, 99_991, 10**7, 2**40 + 17])
@pytest.mark.parametrize("step", [1, 2, 256])
def test_neighbours_are_scattered(num_items, step):
    """Where p(i) lies says nothing of where p(i + step) lies: an 8 x 8 table is even."""
    count = min(num_items, 200_000)
    images = order.permute(77, num_items, 0, count)
    cells = images * 8 // num_items
    if count < num_items:  # of a whole order the margins are even by force: still near normal
        assert abs(chi_square_z(np.bincount(cells, minlength=8))) < 5
    pairs = np.bincount(cells[:-step] * 8 + cells[step:], minlength=64)
    assert abs(chi_square_z(pairs)) < 5
    differences = np.abs(np.diff(images.astype(float))).mean() / num_items
    assert abs(differences - 1 / 3) < 0.02


@pytest.mark.parametrize("num_items", [5000, 99_991, 2**40 + 17])
@pytest.mark.parametrize("other", [1, 2**32, 2**63, 0x9E3779B97F4A7C15])
def test_orders_of_near_keys_share_nothing(num_items, other):
    """Keys that differ by one, by a bit or by splitmix64's step: the joint table is even."""
    count = min(num_items, 100_000)
    one = order.permute(5, num_items, 0, count) * 8 // num_items
    two = order.permute(5 + other, num_items, 0, count) * 8 // num_items
    assert abs(chi_square_z(np.bincount(one * 8 + two, minlength=64))) < 5


def test_the_tests_of_randomness_find_a_shifted_order():
    """Negative control: i -> i * odd mod n is a bijection, even in every place, and no shuffle."""
    num_items = 99_991
    images = np.arange(num_items) * 31_337 % num_items
    cells = images * 8 // num_items
    assert abs(chi_square_z(np.bincount(cells[:-1] * 8 + cells[1:], minlength=64))) > 5
    shifted = (images + 12_345) % num_items * 8 // num_items  # another "key"
    assert abs(chi_square_z(np.bincount(cells * 8 + shifted, minlength=64))) > 5


# --- documents of an epoch, totals of its segments -----------------------------------------------


@st.composite
def sources(draw):
    num_documents = draw(st.integers(1, 900))
    seed = draw(st.integers(0, 2**32))
    lengths = np.random.default_rng(seed).integers(
        0, draw(st.integers(1, 2**31 - 1)), num_documents
    )
    unaligned = np.zeros(4 * num_documents + 2, dtype=np.uint8)[2:].view(np.int32)
    unaligned[:] = lengths  # as behind the 34 bytes of an .idx header
    num_held_out = draw(st.integers(0, num_documents - 1))
    return unaligned, draw(KEYS), draw(KEYS), num_held_out


@given(sources(), st.data())
@settings(max_examples=150, deadline=None)
def test_epoch_documents_equal_their_twin(source, data):
    num_positions = len(source[0]) - source[3]
    first = data.draw(st.integers(0, num_positions))
    count = data.draw(st.integers(0, num_positions - first))
    found = order.epoch_documents(*source, first, count)
    expected = reference_order.epoch_documents(*source, first, count)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@given(sources())
@settings(max_examples=60, deadline=None)
def test_an_epoch_and_the_held_out_are_all_documents_once(source):
    lengths, split_key, _, num_held_out = source
    documents, found = order.epoch_documents(*source, 0, len(lengths) - num_held_out)
    held_out = order.permute(split_key, len(lengths), 0, num_held_out)
    assert sorted([*documents.tolist(), *held_out.tolist()]) == list(range(len(lengths)))
    assert np.array_equal(found, lengths[documents])


@given(sources(), st.integers(1, 64), st.integers(1, 1000), st.data())
@settings(max_examples=150, deadline=None)
def test_segment_totals_equal_their_twin_and_exact_numbers(source, align, segment, data):
    num_segments = -(-(len(source[0]) - source[3]) // segment)
    first = data.draw(st.integers(0, num_segments))
    count = data.draw(st.integers(0, num_segments - first))
    arguments = (*source, align, segment, first, count)
    found = order.segment_totals(*arguments)
    assert np.array_equal(found, reference_order.segment_totals(*arguments))
    lengths = order.epoch_documents(*source, 0, len(source[0]) - source[3])[1].tolist()
    exact = [
        [sum(part), sum(-(-length // align) * align for length in part)]  # Python integers
        for part in (lengths[s * segment : (s + 1) * segment] for s in range(first, first + count))
    ]
    assert found.tolist() == exact


@given(sources(), st.integers(1, 64), st.sampled_from([1, 2, 7, 64, 256, 10**6]), st.data())
@settings(max_examples=150, deadline=None)
def test_totals_by_document_equal_their_twin_and_add_up_to_the_epoch(source, align, segment, data):
    lengths, *keys = source
    cut = data.draw(st.integers(0, len(lengths)))
    parts = []
    for first, part in ((0, lengths[:cut]), (cut, lengths[cut:])):
        arguments = (part, first, len(lengths), *keys, align, segment)
        parts.append(order.document_totals(*arguments))
        assert np.array_equal(parts[-1], reference_order.document_totals(*arguments))
    whole = order.segment_totals(*source, align, segment, 0, len(parts[0]))
    assert np.array_equal(sum(parts), whole)


def test_segment_totals_pass_2_to_the_32():
    lengths = np.full(1000, 2**31 - 1, dtype=np.int32)
    totals = order.segment_totals(lengths, 1, 2, 0, 2**31, 1000, 0, 1)
    assert totals.tolist() == [[1000 * (2**31 - 1), 1000 * 2**31]]
    by_document = order.document_totals(lengths, 0, 1000, 1, 2, 0, 2**31, 1000)
    assert np.array_equal(by_document, totals)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((1, 0, 0, 0), "found 0"),
        ((1, 2**62 + 1, 0, 5), "4611686018427387905"),
        ((1, 10, -1, 2), "-1"),
        ((1, 10, 9, 2), "9 and 2"),
        ((1, 10, 2**62, 2**62), "4611686018427387904"),
        ((1, 10, 3, -1), "-1"),
    ],
)
def test_permute_refuses_with_the_numbers(arguments, number):
    with pytest.raises(ValueError, match=number):
        order.permute(*arguments)


def test_epochs_refuse_with_the_numbers():
    lengths = np.array([3, 4, 5], dtype=np.int32)
    with pytest.raises(ValueError, match=r"\[0, 3\), found 3"):
        order.epoch_documents(lengths, 1, 2, 3, 0, 0)
    with pytest.raises(ValueError, match="found -1"):
        order.epoch_documents(lengths, 1, 2, -1, 0, 1)
    with pytest.raises(ValueError, match="among the 2"):
        order.epoch_documents(lengths, 1, 2, 1, 1, 2)
    with pytest.raises(ValueError, match="document 1 has length -4"):
        order.epoch_documents(lengths * np.array([1, -1, 1], dtype=np.int32), 1, 2, 0, 0, 3)
    with pytest.raises(ValueError, match="align must be"):
        order.segment_totals(lengths, 1, 2, 0, 0, 2, 0, 1)
    with pytest.raises(ValueError, match="segment_documents must be"):
        order.segment_totals(lengths, 1, 2, 0, 1, 0, 0, 1)
    with pytest.raises(ValueError, match="among the 2"):
        order.segment_totals(lengths, 1, 2, 0, 1, 2, 1, 2)
    with pytest.raises(ValueError, match="1 and 3 on are not all among the 3"):
        order.document_totals(lengths, 1, 3, 1, 2, 0, 1, 2)
    with pytest.raises(ValueError, match="document 3 has length -4"):
        order.document_totals(lengths * np.array([1, -1, 1], dtype=np.int32), 2, 9, 1, 2, 0, 1, 2)
    with pytest.raises(TypeError):
        order.epoch_documents(lengths.astype(np.int64), 1, 2, 0, 0, 1)
