"""Rows of a batch: C++ equals its twin to the last element, and refuses what is out of bounds."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native.reference_rows import read_rows as reference_rows
from megatron_math.native.rows import Rows, read_file_rows, read_rows

DTYPES = (np.uint16, np.int32, np.uint8, np.int8, np.int16, np.int64)


def int64(*values):
    return np.array(values, dtype=np.int64)


@st.composite
def batches(draw):
    sequence_length = draw(st.integers(1, 24) | st.integers(60, 300))
    dtype = draw(st.sampled_from(DTYPES))
    num_tokens = draw(st.integers(0, 60) | st.integers(60, 300))
    seed = draw(st.integers(0, 2**32))
    info = np.iinfo(dtype)
    bin = np.random.default_rng(seed).integers(info.min, info.max, num_tokens, dtype, endpoint=True)
    pieces, row_starts = [], [0]
    for _ in range(draw(st.integers(0, 4))):
        left = sequence_length + 1
        for _ in range(draw(st.integers(0, 6))):
            tokens = draw(st.integers(0, min(left, num_tokens)))
            first = draw(st.integers(0, num_tokens - tokens))
            padding = draw(st.integers(0, 5))
            pieces.append((first, tokens, padding))
            left -= tokens
            left -= min(left, padding)
        row_starts.append(len(pieces))
    roles = role_counts = None
    if draw(st.booleans()):
        roles = np.random.default_rng(seed + 1).integers(0, 4, num_tokens).astype(np.uint8)
        role_counts = np.zeros(256, dtype=bool)
        role_counts[draw(st.lists(st.integers(0, 3), max_size=3))] = True
    return (
        bin,
        np.array(pieces, dtype=np.int64).reshape(-1, 3),
        np.array(row_starts, dtype=np.int64),
        sequence_length,
        draw(st.integers(-1, 200_000)),
        draw(st.booleans()),
        roles,
        role_counts,
    )


@given(batches())
@settings(max_examples=400, deadline=None)
def test_rows_equal_their_twin(batch):
    found, expected = read_rows(*batch), reference_rows(*batch)
    for ours, twin in zip(found, expected, strict=True):
        assert ours.dtype == twin.dtype
        assert np.array_equal(ours, twin)


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_go_to_the_places_they_are_given_and_nowhere_else(batch, data):
    num_rows, sequence_length = len(batch[2]) - 1, batch[3]
    larger = Rows.empty(num_rows + 2, sequence_length)
    for array_BS in larger:
        array_BS.fill(77)
    places = data.draw(st.permutations(range(num_rows + 2)))[:num_rows]
    read_rows(*batch, into=larger, row_numbers=np.array(places, dtype=np.int64))
    for ours, twin in zip(larger, reference_rows(*batch), strict=True):
        assert np.array_equal(ours[places], twin)
        others = np.delete(ours, places, axis=0)
        assert (others == 77).all()


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_of_a_file_equal_those_of_its_ids(tmp_path_factory, batch, data):
    bin, pieces, row_starts, sequence_length, pad_id, attend_across, _, _ = batch
    path = tmp_path_factory.mktemp("rows") / "corpus.bin"
    bin.tofile(path)
    asked = pieces, row_starts, sequence_length, pad_id, attend_across
    with open(path, "rb") as file:
        found = read_file_rows(file, path, bin.dtype, len(bin), *asked)
    for ours, twin in zip(found, reference_rows(bin, *asked), strict=True):
        assert np.array_equal(ours, twin)


def test_a_batch_larger_than_what_is_read_together(tmp_path):
    """10 rows of 131 KB, laid out by threes: the pieces of one go on behind those of the last."""
    bin, length = np.random.default_rng(3).integers(0, 1 << 16, 90_000).astype(np.uint16), 65_535
    path = tmp_path / "corpus.bin"
    bin.tofile(path)
    pieces = np.array([(7 * row + 3, 65_536 - row, 0) for row in range(10)])
    places = np.random.default_rng(4).permutation(10)
    into = Rows.empty(10, length)
    asked = pieces, np.arange(11), length, 5, False
    with open(path, "rb") as file:
        read_file_rows(file, path, bin.dtype, 90_000, *asked, into=into, row_numbers=places)
    for ours, twin in zip(into, reference_rows(bin, *asked), strict=True):
        assert np.array_equal(ours[places], twin)
    os.truncate(path, 90_000)
    with open(path, "rb") as file, pytest.raises(OSError, match=r"the file ends there.*corpus"):
        read_file_rows(file, path, bin.dtype, 90_000, *asked)


def test_memory_comes_back_only_when_nobody_holds_it():
    batch = Rows.empty(3, 1000)
    addresses = [array.ctypes.data for array in batch]
    assert all(address % 64 == 0 for address in addresses)
    batch.tokens_BS[:] = 1
    held = batch.tokens_BS[1:, 5:]  # a view keeps the whole batch
    del batch
    other = Rows.empty(3, 1000)
    other.tokens_BS[:] = 2
    assert (held == 1).all()
    assert not {array.ctypes.data for array in other} & set(addresses)
    del held
    assert [array.ctypes.data for array in Rows.empty(3, 1000)] == addresses
    sizes = [array.nbytes for array in other]
    begins = [array.ctypes.data for array in other]
    ranges = sorted(zip(begins, sizes, strict=True))
    pairs = zip(ranges, ranges[1:], strict=False)
    assert all(begin + size <= after for (begin, size), (after, _) in pairs)


MEMORY_AFTER_BATCHES = """
import psutil
from megatron_math.native.rows import Rows

batches = [Rows.empty(32, 65_536) for _ in range(6)]  # 67 MB each, all touched
for batch in batches:
    for array in batch:
        array.fill(0)
before = psutil.Process().memory_info().rss
del batches, batch, array
print(before - psutil.Process().memory_info().rss)
"""


def test_memory_kept_for_later_is_bounded():
    """In a process of its own: an allocator that has been at work keeps what it may."""
    command = [sys.executable, "-c", MEMORY_AFTER_BATCHES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 5 * 60_000_000


def test_a_row_read_by_hand():
    """Two documents (3 and 4 tokens, the first padded by 1) in 8 slots and a label."""
    bin = np.arange(10, 20, dtype=np.uint16)
    pieces = int64((0, 3, 1), (5, 4, 0))
    rows = read_rows(bin, pieces, int64(0, 2), 8, 0, False)
    assert rows.tokens_BS.tolist() == [[10, 11, 12, 0, 15, 16, 17, 18]]
    assert rows.labels_BS.tolist() == [[11, 12, 0, 15, 16, 17, 18, 0]]
    assert rows.loss_mask_BS.tolist() == [[1, 1, 0, 0, 1, 1, 1, 0]]
    assert rows.document_ids_BS.tolist() == [[0, 0, 0, 1, 2, 2, 2, 2]]
    assert rows.position_ids_BS.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]
    across = read_rows(bin, int64((0, 3, 0), (5, 4, 0)), int64(0, 2), 8, 0, True)
    assert across.loss_mask_BS.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert across.document_ids_BS.tolist() == [[0, 0, 0, 0, 0, 0, 0, 3]]
    assert across.position_ids_BS.tolist() == [list(range(8))]


@pytest.mark.parametrize(
    ("pieces", "row_starts", "message"),
    [
        (int64((6, 5, 0)), int64(0, 1), "5 tokens from 6 on, the corpus has 10"),
        (int64((2**62, 2**62, 0)), int64(0, 1), "the corpus has 10"),
        (int64((-1, 2, 0)), int64(0, 1), "from -1 on"),
        (int64((0, -2, 0)), int64(0, 1), "-2 tokens"),
        (int64((0, 2, -1)), int64(0, 1), "-1 of padding"),
        (int64((0, 5, 3), (0, 2, 0)), int64(0, 2), "2 tokens and 0 of padding meets 1 free slots"),
        (int64((0, 1, 0)), int64(0, 2), "0 to 2"),
        (int64((0, 1, 0)), int64(1, 1), "1 to 1"),
        (int64((0, 1, 0), (0, 1, 0)), int64(0, 3, 1, 2), "behind row 0"),
        (int64((0, 1, 0), (0, 1, 0)), int64(0, 2, 1, 2), "behind row 1"),
    ],
)
def test_pieces_out_of_bounds_are_refused_with_the_numbers(pieces, row_starts, message):
    before = Rows(*(array.fill(5) or array for array in Rows.empty(3, 8)))
    bin = np.arange(10, dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        read_rows(bin, pieces.reshape(-1, 3), row_starts, 8, 0, False, into=before)
    assert all((array == 5).all() for array in before)


def test_arrays_that_do_not_belong_together_are_refused():
    bin, one = np.arange(10, dtype=np.int32), (int64((0, 3, 0)).reshape(1, 3), int64(0, 1))
    counts = np.ones(256, dtype=bool)
    with pytest.raises(ValueError, match="each of 10 tokens"):
        read_rows(bin, *one, 8, 0, False, np.zeros(9, np.uint8), counts)
    with pytest.raises(ValueError, match="belong together"):
        read_rows(bin, *one, 8, 0, False, np.zeros(10, np.uint8))
    with pytest.raises(TypeError, match="uint8"):
        read_rows(bin, *one, 8, 0, False, np.zeros(10, np.int32), counts)
    with pytest.raises(TypeError, match="float64"):
        read_rows(bin.astype(float), *one, 8, 0, False)
    with pytest.raises(ValueError, match="without gaps"):
        read_rows(bin[::2], *one, 8, 0, False)
    with pytest.raises(ValueError, match="row 2 of a batch of 2"):
        read_rows(bin, *one, 8, 0, False, into=Rows.empty(2, 8), row_numbers=int64(2))
    frozen = Rows.empty(1, 8)
    frozen.labels_BS.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        read_rows(bin, *one, 8, 0, False, into=frozen)
