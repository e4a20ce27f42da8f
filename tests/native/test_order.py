"""The order builders: C++ equals its twin, and both keep their promises on exact numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import order, reference_order

NO_LIMIT = 1 << 60


def int64(*values):
    return np.array(values, dtype=np.int64)


# --- pack_index ----------------------------------------------------------------------------------


@st.composite
def packing(draw):
    """Few documents drawn one by one, or many by NumPy, so that a full window is met."""
    align, unit = draw(st.integers(1, 6)), draw(st.integers(1, 4)) * 4
    sequence_length = align * unit
    if draw(st.booleans()):
        lengths = np.array(draw(st.lists(st.integers(1, 90), max_size=60)), dtype=np.int64)
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        sequence_length *= draw(st.sampled_from([1, 50, 2**24]))
        longest = max(1, int(sequence_length * draw(st.sampled_from([0.05, 0.6, 1.0, 2.5]))))
        lengths = rng.integers(1, longest, 600, dtype=np.int64, endpoint=True)
    return lengths, sequence_length, align, draw(st.sampled_from([1, 2, 3, 5, 8, 9, 33, 64]))


@given(packing())
@settings(max_examples=200, deadline=None)
def test_pack_index_equals_its_twin(arguments):
    for found, expected in zip(
        order.pack_index(*arguments), reference_order.pack_index(*arguments), strict=True
    ):
        assert np.array_equal(found, expected)


@given(packing())
@settings(max_examples=200, deadline=None)
def test_packs_hold_every_token_once_and_cut_only_what_cannot_fit(arguments):
    lengths, sequence_length, align, _ = arguments
    pieces, starts = order.pack_index(*arguments)
    reached = [0] * len(lengths)
    for position, start, length in pieces.tolist():
        assert start == reached[position]  # a cut document's pieces come in order
        reached[position] += length
        assert length == min(sequence_length, lengths[position] - start) > 0
    assert reached == lengths.tolist()
    for begin, end in zip(starts[:-1], starts[1:], strict=True):
        slots = -(-pieces[begin:end, 2] // align) * align
        assert 0 < slots.sum() <= sequence_length


def test_best_fit_keeps_padding_under_one_percent_on_short_documents():
    """Lengths like GSM8K's (mean about 200 tokens) at 4,096; next fit, the control, loses more."""
    lengths = np.random.default_rng(0).gamma(4.0, 50.0, 20_000).astype(np.int64) + 20

    def padding(window):
        _, starts = order.pack_index(lengths, 4096, 1, window)
        return 1 - lengths.sum() / ((len(starts) - 1) * 4096)

    assert padding(64) < 0.01
    assert padding(1) > 0.015


def test_pack_index_does_not_depend_on_lengths_fitting_32_bits():
    pieces, starts = order.pack_index(int64(2**33 + 5, 7), 2**31, 1, 4)
    assert pieces.tolist() == [
        *([0, i * 2**31, 2**31] for i in range(4)),
        [0, 2**33, 5],
        [1, 0, 7],
    ]
    assert starts.tolist() == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize(
    ("lengths", "number"),
    [
        (int64(5, 0, 3), "position 1"),
        (int64(5, -2), "-2"),
        (int64(2**62, 2**62), "4611686018427387904"),
    ],
)
def test_pack_index_refuses_lengths_with_the_numbers(lengths, number):
    with pytest.raises(ValueError, match=number):
        order.pack_index(lengths, 4, 1, 4)


def test_arrays_of_another_type_are_not_cast_in_silence():
    with pytest.raises(TypeError):
        order.pack_index(np.array([3.5, 4.5]), 4, 1, 4)
    with pytest.raises(ValueError, match="1 axes"):
        order.pack_index(np.ones((2, 2), dtype=np.int64), 4, 1, 4)


def test_a_document_one_token_longer_than_the_sequence_is_cut():
    pieces, starts = order.pack_index(int64(9, 7, 8), 8, 1, 4)
    assert pieces.tolist() == [[0, 0, 8], [0, 8, 1], [1, 0, 7], [2, 0, 8]]
    assert starts.tolist() == [0, 1, 3, 4]


def test_pack_index_refuses_with_the_numbers():
    with pytest.raises(ValueError, match="found 65"):
        order.pack_index(int64(3), 8, 4, 65)
    with pytest.raises(ValueError, match="found 0"):
        order.pack_index(int64(3), 0, 1, 4)
    with pytest.raises(ValueError, match="10 is not a multiple of align 4"):
        order.pack_index(int64(3), 10, 4, 2)
    with pytest.raises(ValueError, match="found 0"):
        order.pack_index(int64(3), 8, 4, 0)


# --- blend_order ---------------------------------------------------------------------------------


def blend_by_shares(shares, num_samples, size=1):
    """The order of equal samples from endless sources."""
    sizes = [np.full(num_samples, size, dtype=np.int64)] * len(shares)
    return order.blend_order(
        int64(0),
        np.zeros((1, len(shares)), dtype=np.int64),
        np.array(shares, dtype=np.int64),
        sizes,
        [True] * len(shares),
        size,
        num_samples * size,
        [0] * len(shares),
    )[0]


def worst_deviation(chosen, shares):
    """Largest |samples - share * n| over every prefix and source, an exact fraction."""
    counts, worst = [0] * len(shares), Fraction(0)
    for n, source in enumerate(chosen, start=1):
        counts[source] += 1
        for count, share in zip(counts, shares, strict=True):
            worst = max(worst, abs(count - Fraction(share * n, sum(shares))))
    return worst


@given(shares=st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_every_prefix_is_within_one_sample_of_every_share(shares):
    assert worst_deviation(blend_by_shares(shares, 200), shares) < 1


def test_taking_the_most_behind_alone_breaks_the_bound():
    """Negative control: the usual greedy rule passes one sample where ours does not."""
    shares = [1, 1, 1, 1, 1, 2, 3, 3, 5, 5, 35, 35]
    counts, greedy = [0] * len(shares), []
    for n in range(1, 400):
        behind = [Fraction(s * n, sum(shares)) - c for s, c in zip(shares, counts, strict=True)]
        source = behind.index(max(behind))
        counts[source] += 1
        greedy.append(source)
    assert worst_deviation(greedy, shares) >= 1
    assert worst_deviation(blend_by_shares(shares, 400), shares) < 1


@st.composite
def mixes(draw):
    """Sources with ragged samples; some end, then the others take their part."""
    sequence_length = draw(st.integers(1, 40))
    num_sources = draw(st.integers(1, 5))
    sizes = [
        np.array(draw(st.lists(st.integers(1, sequence_length), min_size=1, max_size=25)))
        for _ in range(num_sources)
    ]
    totals = np.array([int(s.sum()) for s in sizes])
    kind = draw(st.sampled_from(["all end", "one end", "none end"]))
    if kind == "all end":
        starts, bases = int64(0, totals.sum()), np.stack([totals * 0, totals])
        shares = totals * 0
    elif kind == "none end" or num_sources == 1:
        starts, bases = int64(0), (totals * 0)[None]
        shares = np.array(draw(st.lists(st.integers(1, 50), min_size=num_sources,
                                        max_size=num_sources)))  # fmt: skip
    else:
        others = draw(st.lists(st.integers(0, 300), min_size=num_sources - 1,
                               max_size=num_sources - 1))  # fmt: skip
        bend = np.array([totals[0], *others])
        starts, bases = int64(0, bend.sum()), np.stack([totals * 0, bend])
        shares = np.array([0, *draw(st.lists(st.integers(1, 50), min_size=num_sources - 1,
                                             max_size=num_sources - 1))])  # fmt: skip
    return starts, bases, shares, sizes, [bool(s > 0) for s in shares], sequence_length


@given(mixes())
@settings(max_examples=300, deadline=None)
def test_blend_order_equals_its_twin(mix):
    zeros = [0] * len(mix[2])
    found = order.blend_order(*mix, NO_LIMIT, zeros)
    expected = reference_order.blend_order(*mix, NO_LIMIT, zeros)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    if not mix[2].any():
        assert sorted(found[0]) == [j for j, s in enumerate(mix[3]) for _ in s]


@given(mixes())
@settings(max_examples=300, deadline=None)
def test_ragged_samples_stay_within_one_sequence_of_a_target_that_bends(mix):
    starts, bases, shares, sizes, _, sequence_length = mix
    chosen, _ = order.blend_order(*mix, NO_LIMIT, [0] * len(shares))
    targets = [
        reference_order._Target(
            starts.tolist(), bases[:, j].tolist(), Fraction(int(s), max(1, int(shares.sum())))
        )
        for j, s in enumerate(shares)
    ]
    given_tokens, taken = [0] * len(shares), [0] * len(shares)
    for source in chosen:
        given_tokens[source] += int(sizes[source][taken[source]])
        taken[source] += 1
        for tokens, target in zip(given_tokens, targets, strict=True):
            assert abs(tokens - target.at(sum(given_tokens))) < sequence_length


@given(mixes(), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_order_does_not_depend_on_how_sizes_arrive(mix, chunk):
    starts, bases, shares, sizes, more, sequence_length = mix
    whole, _ = order.blend_order(*mix, NO_LIMIT, [0] * len(shares))
    given_tokens, taken, pieces = [0] * len(shares), np.zeros(len(shares), dtype=int), []
    while True:
        window = [s[t : t + chunk] for s, t in zip(sizes, taken, strict=True)]
        still = [m or t + chunk < len(s) for s, t, m in zip(sizes, taken, more, strict=True)]
        piece, given_tokens = order.blend_order(
            starts, bases, shares, window, still, sequence_length, NO_LIMIT, given_tokens
        )
        if len(piece) == 0:
            break
        pieces.append(piece)
        taken += np.bincount(piece, minlength=len(shares))
    assert np.array_equal(np.concatenate(pieces) if pieces else [], whole)


def blend_by(mix, max_tokens, most_scanned):
    """`order.blend_order` through a scan of the sources or, beyond most_scanned, the calendars."""
    starts, bases, shares, sizes, more, sequence_length = mix
    zeros = np.zeros(len(shares), dtype=np.int64)
    blend = order.BlendOrder(
        starts, bases, shares, sequence_length, zeros, most_scanned=most_scanned
    )
    for source, (tokens, follow) in enumerate(zip(sizes, more, strict=True)):
        blend.feed(source, tokens, follow)
    out = np.empty(sum(map(len, sizes)) + 1, dtype=np.int32)
    numbers = np.empty(len(out), dtype=np.int64)
    count = blend.choose(out, max_tokens, numbers)
    for source in range(len(shares)):
        mine = numbers[:count][out[:count] == source]
        assert np.array_equal(mine, np.arange(len(mine)))
    return out[:count], blend.given()


@given(mixes())
@settings(max_examples=200, deadline=None)
def test_scan_and_calendars_equal_the_twin(mix):
    expected = reference_order.blend_order(*mix, NO_LIMIT, [0] * len(mix[2]))
    for most_scanned in (0, 64):
        found = blend_by(mix, NO_LIMIT, most_scanned)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


@st.composite
def large_mixes(draw):
    """6 to 70 sources: equal, close and tiny shares, ends, bends,
    a start in the middle, ragged sizes; drawn by NumPy from one seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_sources = int(rng.integers(6, 71))
    sequence_length = int(rng.choice([1, 2, 7, 64, 4096, 2**31]))
    kind = draw(st.sampled_from(["equal", "uniform", "tiny", "huge"]))
    shares = {
        "equal": np.full(num_sources, int(rng.integers(1, 10**6))),
        "uniform": rng.integers(1, 1000, num_sources),
        "tiny": np.r_[10**12, rng.integers(1, 100, num_sources - 1)],
        "huge": rng.integers(1, 2**62 // num_sources, num_sources),
    }[kind].astype(np.int64)
    ragged = draw(st.sampled_from(["even", "nearly", "ragged"]))
    low = {"even": sequence_length, "nearly": max(1, sequence_length - 3), "ragged": 1}[ragged]
    sizes = [
        rng.integers(low, sequence_length, 40, dtype=np.int64, endpoint=True)
        for _ in range(num_sources)
    ]
    starts, bases = int64(0), np.zeros((1, num_sources), dtype=np.int64)
    more = [True] * num_sources
    if draw(st.booleans()):  # some sources end at the tokens they have, others bend there
        ends = rng.random(num_sources) < 0.3
        ends[0] = False
        totals = np.array([int(part.sum()) for part in sizes])
        bend = np.where(ends, totals, rng.integers(0, 20 * sequence_length + 1, num_sources))
        bend[0] += 1
        starts, bases = int64(0, bend.sum()), np.stack([bend * 0, bend])
        shares = np.where(ends, 0, shares)
        more = [not end for end in ends]
    return starts, bases, shares, sizes, more, sequence_length


@given(large_mixes())
@settings(max_examples=30, deadline=None)
def test_many_sources_equal_the_twin(mix):
    expected = reference_order.blend_order(*mix, 120 * mix[5], [0] * len(mix[2]))
    for most_scanned in (0, 64):
        found = blend_by(mix, 120 * mix[5], most_scanned)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


@given(large_mixes(), st.integers(1, 50), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_an_order_may_be_fed_and_chosen_in_any_pieces(mix, stretch, chunk):
    starts, bases, shares, sizes, more, sequence_length = mix
    zeros = np.zeros(len(shares), dtype=np.int64)
    whole, after = order.blend_order(*mix, NO_LIMIT, zeros)
    blend = order.BlendOrder(starts, bases, shares, sequence_length, zeros)
    fed, found = [0] * len(shares), []
    out = np.empty(stretch, dtype=np.uint8)
    while True:
        for source in blend.waiting():
            begin, end = fed[source], fed[source] + chunk
            fed[source] = end
            if begin < len(sizes[source]):
                blend.feed(
                    source, sizes[source][begin:end], more[source] or end < len(sizes[source])
                )
        count = blend.choose(out, NO_LIMIT)
        found += out[:count].tolist()
        if count == 0:
            break
    assert found == whole.tolist()
    assert np.array_equal(blend.given(), after)


def test_more_sources_than_16_bits_and_more_tokens_than_31():
    """70,001 sources of 2^31-token samples: each of equal shares comes once before any again, and
    a source with half of all tokens is every second sample."""
    num_sources, length = 70_001, 2**31
    shares = np.ones(num_sources, dtype=np.int64)
    shares[-1] = num_sources - 1
    base = np.zeros((1, num_sources), dtype=np.int64)
    blend = order.BlendOrder(int64(0), base, shares, length, np.zeros(num_sources, dtype=np.int64))
    for source in range(num_sources):
        blend.feed(source, np.broadcast_to(np.int64(length), 1 << 40), True)
    out = np.empty(3 * 140_000, dtype=np.uint32)
    assert blend.choose(out, 1 << 62) == len(out)
    for turn in out.reshape(3, 140_000):
        counts = np.bincount(turn, minlength=num_sources)
        assert (counts[:-1] == 1).all()
        assert counts[-1] == 70_000
    assert int(blend.given().sum()) == len(out) * length > 2**49
    with pytest.raises(ValueError, match="70001 sources cannot be numbered by out's uint16"):
        blend.choose(out.astype(np.uint16), 1 << 62)


def test_a_blend_refuses_what_would_bend_its_order():
    base = np.zeros((1, 2), dtype=np.int64)
    blend = order.BlendOrder(int64(0), base, int64(1, 1), 8, int64(0, 0))
    out = np.empty(4, dtype=np.uint16)
    assert blend.waiting() == [0, 1]
    assert blend.choose(out, 100) == 0
    blend.feed(0, int64(8), True)
    with pytest.raises(ValueError, match="source 0 waits for no sizes"):
        blend.feed(0, int64(8), True)
    with pytest.raises(ValueError, match="source 2 of 2"):
        blend.feed(2, int64(8), True)
    with pytest.raises(ValueError, match="has 9 tokens"):
        blend.feed(1, int64(9), True)
    with pytest.raises(TypeError, match="float32"):
        blend.choose(out.astype(np.float32), 100)
    with pytest.raises(ValueError, match="gaps"):
        blend.choose(out[::2], 100)
    with pytest.raises(ValueError, match="samples must have one axis and 4 elements"):
        blend.choose(out, 100, np.empty(3, dtype=np.int64))
    blend.feed(1, int64(8, 8, 8)[::2], True)
    assert blend.choose(out, 100) == 1
    assert blend.waiting() == [0]
    blend.feed(0, int64(8), True)
    numbers = np.full(4, -1, dtype=np.int64)
    count = blend.choose(out, 100, numbers)
    taken = {0: 1, 1: 0}
    for source, number in zip(out[:count].tolist(), numbers.tolist(), strict=False):
        assert number == taken[source]
        taken[source] += 1
    assert taken == {0: 2, 1: 1}


def test_blend_order_is_exact_beyond_32_bits():
    """7 * 10^12 tokens given before: the next choices are those of a fresh start, shifted."""
    shares, sizes = int64(3, 4), [np.full(50, 8192), np.full(50, 8192)]
    base = np.zeros((1, 2), dtype=np.int64)
    turn = 7 * 8192 * 10**8
    start = [turn * 3 // 7, turn * 4 // 7]
    fresh, _ = order.blend_order(int64(0), base, shares, sizes, [True] * 2, 8192, 10**6, [0, 0])
    later, after = order.blend_order(
        int64(0), base, shares, sizes, [True] * 2, 8192, turn + 10**6, start
    )
    assert np.array_equal(fresh, later)
    assert sum(after) == turn + len(later) * 8192


def test_blend_order_refuses_with_the_numbers():
    base = np.zeros((1, 2), dtype=np.int64)
    arguments = {"sequence_length": 8, "max_tokens": 100, "given": [0, 0]}
    with pytest.raises(ValueError, match="has 9 tokens"):
        order.blend_order(
            int64(0), base, int64(1, 1), [int64(9), int64(8)], [True, True], **arguments
        )
    with pytest.raises(ValueError, match="no samples left after 8"):
        order.blend_order(
            int64(0), base, int64(1, 1), [int64(8), int64(8)], [False, False], **arguments
        )
    bases = np.array([[0, 0], [9, 12]])
    with pytest.raises(ValueError, match="must sum to its 20"):
        order.blend_order(
            int64(0, 20), bases, int64(1, 1), [int64(8)] * 2, [True, True], **arguments
        )
    with pytest.raises(ValueError, match="3 sizes"):
        order.blend_order(int64(0), base, int64(1, 1), [int64(8)] * 3, [True, True], **arguments)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_samples_are_located_as_by_counting_all_before(data):
    dtype = data.draw(st.sampled_from([np.uint16, np.uint32]))
    num_samples, num_sources = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 4))
    seed, block_samples = data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 128))
    order_N = np.random.default_rng(seed).integers(0, num_sources, num_samples).astype(dtype)
    begins = range(0, num_samples, block_samples)
    counts = np.array([np.bincount(order_N[:begin], minlength=num_sources) for begin in begins])
    samples = int64(*data.draw(st.lists(st.integers(0, num_samples - 1), max_size=8)))
    found = order.locate(order_N, counts, block_samples, samples)
    for ours, twin in zip(
        found, reference_order.locate(order_N, counts, block_samples, samples), strict=True
    ):
        assert ours.dtype == twin.dtype
        assert ours.tolist() == twin.tolist()
    for wrong in (-1, num_samples, 2**62):
        with pytest.raises(IndexError, match=f"sample {wrong} of {num_samples}"):
            order.locate(order_N, counts, block_samples, int64(*samples, wrong))
    with pytest.raises(ValueError, match="do not hold"):
        order.locate(order_N, counts[:-1], block_samples, samples)
    with pytest.raises(ValueError, match=f"of source {num_sources}, counts are given for"):
        foreign = np.full(num_samples, num_sources, dtype)
        order.locate(foreign, counts, block_samples, int64(0))


def test_a_block_of_one_source_is_counted_past_65535():
    order_N = np.full(200_000, 7, dtype=np.uint16)
    _, number = order.locate(order_N, np.zeros((1, 8), dtype=np.int64), 1 << 20, int64(199_999))
    assert number.tolist() == [199_999]
