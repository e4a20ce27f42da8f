"""The .idx parser: equal to its twin on headers of all kinds, and to what megatron-core reads."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import index_reader, reference_index_reader
from megatron_math.native.index_reader import (
    HEADER_BYTES,
    bin_pieces,
    check_index,
    parse_index_header,
)

MAGIC = b"MMIDIDX\x00\x00"
COUNTS = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.sampled_from([2**60, 2**61]))


def result(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except ValueError:
        return "refused"


@st.composite
def headers(draw):
    """Mostly right ones, with bytes changed or cut off, and sizes that are near the right ones."""
    num_documents, num_boundaries = draw(COUNTS), draw(COUNTS)
    code = draw(st.one_of(st.sampled_from([1, 2, 3, 4, 5, 8]), st.integers(0, 255)))
    version = draw(st.sampled_from([1, 1, 1, 1, 2, 2**32 + 1]))
    header = bytearray(MAGIC + struct.pack("<QBQQ", version, code, num_documents, num_boundaries))
    if draw(st.integers(0, 4)) == 0:
        header[draw(st.integers(0, len(header) - 1))] ^= 1 << draw(st.integers(0, 7))
    if draw(st.integers(0, 9)) == 0:
        del header[draw(st.integers(0, len(header) - 1)) :]
    size = HEADER_BYTES + 12 * num_documents + 8 * num_boundaries
    size += draw(st.sampled_from([0, 0, 0, num_documents, 1, -1, 8, -(2**64)]))
    # Sizes that would fit if the sum were computed in 64 bits are among these.
    idx_bytes = draw(st.sampled_from([size, size % 2**64, size % 2**63]))
    bin_bytes = draw(st.one_of(st.integers(-2, 64), st.integers(0, 2**62)))
    return bytes(header), max(-(2**63), min(idx_bytes, 2**63 - 1)), bin_bytes


@given(headers())
@settings(max_examples=600, deadline=None)
def test_headers_are_read_as_the_twin_reads_them(arguments):
    expected = result(reference_index_reader.parse_index_header, *arguments)
    assert result(parse_index_header, *arguments) == expected


@given(st.binary(max_size=80), st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_or_read_as_the_twin_reads_them(header, idx_bytes):
    for start in (b"", MAGIC, MAGIC + struct.pack("<Q", 1)):
        arguments = (start + header, idx_bytes, 8)
        expected = result(reference_index_reader.parse_index_header, *arguments)
        assert result(parse_index_header, *arguments) == expected


@st.composite
def documents(draw):
    """Lengths and pointers as in a file (not aligned), right or with one number changed."""
    item_bytes = draw(st.sampled_from([1, 2, 4, 8]))
    begin = draw(st.sampled_from([0, 0, 2**33]))
    longest = draw(st.sampled_from([3, 2**31 - 1]))
    lengths = np.array(draw(st.lists(st.integers(0, longest), max_size=12)), dtype=np.int64)
    ends = begin + np.cumsum(lengths) * item_bytes
    pointers = ends - lengths * item_bytes
    bin_bytes = int(ends[-1]) if len(ends) else begin
    bin_bytes += draw(st.sampled_from([0, 0, 1, -1]))
    if len(lengths) and draw(st.booleans()):
        at = draw(st.integers(0, len(lengths) - 1))
        if draw(st.booleans()):
            lengths[at] = draw(st.integers(-(2**31), 2**31 - 1))
        else:
            pointers[at] = draw(st.integers(-(2**63), 2**63 - 1))

    def unaligned(values, dtype):
        raw = np.zeros(values.size * np.dtype(dtype).itemsize + 2, dtype=np.uint8)[2:].view(dtype)
        raw[:] = values
        return raw

    return (unaligned(lengths, np.int32), unaligned(pointers, np.int64), item_bytes, bin_bytes), {
        "first": draw(st.sampled_from([0, 7])),
        "begin": begin,
    }


@given(documents())
@settings(max_examples=400, deadline=None)
def test_documents_are_checked_as_the_twin_checks_them(arguments):
    positional, named = arguments
    expected = result(reference_index_reader.check_index, *positional, **named)
    assert result(check_index, *positional, **named) == expected


def test_sparse_files_beyond_32_bits_are_read(tmp_path):
    """5 documents of 2^31 - 1 int64 tokens: 80 GiB of .bin by its size alone."""
    lengths = np.full(5, 2**31 - 1, dtype=np.int32)
    pointers = np.arange(5, dtype=np.int64) * (2**31 - 1) * 8
    header = MAGIC + struct.pack("<QBQQ", 1, 5, 5, 6)
    idx, bin = tmp_path / "a.idx", tmp_path / "a.bin"
    idx.write_bytes(header + lengths.tobytes() + pointers.tobytes() + bytes(48))
    with open(bin, "wb") as file:
        file.truncate(5 * (2**31 - 1) * 8)
    facts = parse_index_header(header, idx.stat().st_size, bin.stat().st_size)
    assert facts == (np.dtype(np.int64), 5, 6, 34, 54, 94, None)
    found = np.memmap(idx, np.int64, "r", facts.pointers_at, (5,))
    end, num_empty = check_index(lengths, found, facts.dtype.itemsize, bin.stat().st_size)
    assert (end, num_empty) == (bin.stat().st_size, 0)
    assert end > 2**36
    with pytest.raises(ValueError, match=r"document 4 has 2147483647 tokens"):
        check_index(lengths, found, 8, bin.stat().st_size - 8)


def test_messages_name_what_was_found():
    good = MAGIC + struct.pack("<QBQQ", 1, 8, 2, 3)
    size = 34 + 24 + 24
    assert parse_index_header(good, size, 10).modes_at is None
    assert parse_index_header(good, size + 2, 10).modes_at == size
    for header, idx_bytes, bin_bytes, message in [
        (b"PK" + good[2:], size, 10, "not a Megatron index"),
        (good[:20], 20, 10, "20 bytes that do not begin"),
        (MAGIC + struct.pack("<QBQQ", 3, 8, 2, 3), size, 10, "version 3 and dtype code 8"),
        (MAGIC + struct.pack("<QBQQ", 1, 7, 2, 3), size, 10, "dtype code 7"),
        (good, size - 1, 10, "need 82 bytes, found 81"),
        (MAGIC + struct.pack("<QBQQ", 1, 8, 2**62, 3), size, 10, "more than 2\\^63"),
        (good, size, 11, "11 bytes are no whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_index_header(header, idx_bytes, bin_bytes)
    lengths, pointers = np.array([3, 4], np.int32), np.array([0, 8], np.int64)
    with pytest.raises(ValueError, match="document 1 has 4 tokens from byte 8 on.* at byte 6 and"):
        check_index(lengths, pointers, 2, 14)
    with pytest.raises(ValueError, match="2 and 1"):
        check_index(lengths, pointers[:1], 2, 14)
    with pytest.raises(TypeError):
        check_index(lengths.astype(np.int64), pointers, 2, 14)


def test_codes_are_those_of_megatron_core():
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    for code, dtype in index_reader.DTYPES.items():
        assert indexed_dataset.DType(code).name == np.dtype(dtype).name


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_of_the_bin_equal_their_twin(data):
    item_bytes = data.draw(st.sampled_from([1, 2, 4, 8]))
    pointers = np.array(data.draw(st.lists(st.integers(-9, 2**60), max_size=8)), dtype=np.int64)
    unaligned = np.frombuffer(b"." + pointers.tobytes(), np.int64, offset=1)
    document = st.integers(-1, len(pointers))
    rows = st.tuples(document, *[st.integers(0, 2**40)] * 4)
    pieces = np.array(data.draw(st.lists(rows, max_size=6)), dtype=np.int64).reshape(-1, 5)
    arguments = unaligned, item_bytes, pieces
    try:
        expected = reference_index_reader.bin_pieces(*arguments)
    except IndexError:
        with pytest.raises(IndexError, match=f" of {len(pointers)}"):
            bin_pieces(*arguments)
    else:
        found = bin_pieces(*arguments)
        assert found.flags.c_contiguous
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
