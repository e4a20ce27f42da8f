"""Flat texts: equal to the twins, and nothing is read outside the arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import reference_texts, texts
from megatron_math.native.texts import (
    CharacterSet,
    Part,
    choose_texts,
    find_invalid_utf8,
    join_texts,
)
from megatron_math.tokenizer.young_characters import young_ranges


def flat(strings: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, strings)], dtype=np.int64)
    return np.frombuffer(b"".join(strings), np.uint8), offsets


def strings_of(text: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    return [text[b:e].tobytes() for b, e in zip(offsets[:-1], offsets[1:], strict=True)]


strings = st.lists(st.binary(max_size=6), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.integers(0, 6))
def test_join_and_choose(data: st.DataObject, count: int) -> None:
    parts = []
    for _ in range(data.draw(st.integers(0, 4))):
        pool = data.draw(strings)
        choice = data.draw(st.lists(st.integers(-1, len(pool) - 1), min_size=count, max_size=count))
        parts.append(Part(*flat(pool), np.array(choice, np.int64)))
    for found, expected in zip(
        join_texts(parts, count), reference_texts.join_texts(parts, count), strict=True
    ):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    for text, offsets, choice in parts:
        rising = np.unique(
            choice
        )  # the contract of choose_texts; empty ones are shared, not copied
        pool = strings_of(text, offsets)
        expected_strings = [pool[i] if i >= 0 else b"" for i in rising]
        assert strings_of(*choose_texts(text, offsets, rising)) == expected_strings


def test_choosing_shares_memory_where_nothing_is_left_out() -> None:
    text, offsets = flat([b"ab", b"", b"c", b""])
    assert np.shares_memory(choose_texts(text, offsets, np.arange(4))[0], text)
    chosen = choose_texts(text, offsets, np.array([0, 2]))
    assert np.shares_memory(chosen[0], text)
    assert strings_of(*chosen) == [b"ab", b"c"]
    chosen = choose_texts(text, offsets, np.array([2]))
    assert not np.shares_memory(chosen[0], text)
    assert strings_of(*chosen) == [b"c"]


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=5),
            st.lists(st.integers(0, 4), max_size=8),
        ),
        max_size=6,
    )
)
def test_token_roles(documents: list) -> None:
    segment_ends = [np.cumsum([size for size, _ in segments]) for segments, _ in documents]
    arguments = (
        np.concatenate([np.empty(0, np.int64), *(np.cumsum(t) for _, t in documents)]).astype("i8"),
        np.array([len(tokens) for _, tokens in documents], np.int32),
        np.cumsum([0, *(len(segments) for segments, _ in documents)], dtype=np.int64),
        np.concatenate([np.empty(0, np.int64), *segment_ends]).astype(np.int64),
        np.array([role for segments, _ in documents for _, role in segments], np.uint8),
    )
    expected = reference_texts.token_roles(*arguments)
    assert np.array_equal(texts.token_roles(*arguments), expected)


def test_the_last_byte_decides() -> None:
    """ "ab|cd": the token "bc" is the second segment's; what has no byte is the first's."""
    ends, lengths = np.array([0, 1, 3, 4], np.int64), np.array([4], np.int32)
    segments = np.array([0, 2], np.int64), np.array([2, 4], np.int64), np.array([7, 9], np.uint8)
    assert texts.token_roles(ends, lengths, *segments).tolist() == [7, 7, 9, 9]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=5))
def test_invalid_utf8(strings: list[bytes]) -> None:
    expected = reference_texts.find_invalid_utf8(*flat(strings))
    assert find_invalid_utf8(*flat(strings)).tolist() == expected.tolist()


@pytest.mark.parametrize("lead", range(0xC0, 0x100))
def test_every_pair_of_bytes_behind_every_lead_byte(lead: int) -> None:
    """Far enough from the end that sixteen bytes are looked at together, and at the very end."""
    tails = [
        bytes([lead, a, b]) for a in (*range(0x7E, 0xC2), 0xE1) for b in (0x7F, 0x80, 0xBF, 0xC0)
    ]
    for before, behind in ((14, 20), (13, 0), (30, 1)):
        rows = [b"x" * before + tail + c + b"y" * behind for tail in tails for c in (b"", b"\x80")]
        expected = reference_texts.find_invalid_utf8(*flat(rows))
        assert find_invalid_utf8(*flat(rows)).tolist() == expected.tolist()


def test_unfit_arrays_are_refused() -> None:
    text, offsets = flat([b"ab", b"c"])
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    for part, message in (
        (Part(text, offsets, one * 2), "part 0 has 2 strings, text 0 asks for number 2"),
        (Part(text, offsets, one * -2), "asks for number -2"),
        (Part(text, np.array([0, 4], np.int64), zero), r"offsets\[1\] is 4, 0 to 3 is possible"),
        (Part(text, np.array([2, 1], np.int64), zero), r"offsets\[1\] is 1, 2 to 3"),
        (Part(text, np.array([-1, 1], np.int64), zero), r"offsets\[0\] is -1"),
        (Part(text, offsets, np.zeros(2, np.int64)), "part 0 chooses for 2 of 1 texts"),
        (Part(text, offsets.astype(np.int32), zero), "uint8, int64 and int64 arrays"),
        (Part(text, offsets[:0], zero), "offsets must have an element"),
        (Part(text, offsets, zero[None]), "choice must have one axis"),
    ):
        with pytest.raises(ValueError, match=message):
            join_texts([part], 1)
    firsts, ends, roles = np.array([0, 1], np.int64), one, np.zeros(1, np.uint8)
    lengths = np.ones(1, np.int32)
    for arguments, message in (
        ((one, lengths * 2, firsts, ends, roles), "has 2 tokens of 1 left"),
        ((one, lengths * -1, firsts, ends, roles), "has -1 tokens"),
        ((one, lengths * 0, firsts, ends, roles), "sum to 0, but 1 tokens"),
        ((one, lengths, firsts * 0, ends, roles), "segments 0 to -1 of 1"),
        ((one, lengths, firsts + 1, ends, roles), "segments 1 to 1 of 1"),
        ((one, lengths, firsts[:1], ends, roles), "sizes do not agree"),
        ((one, lengths, firsts, ends, np.zeros(2, np.uint8)), "sizes do not agree"),
    ):
        with pytest.raises(ValueError, match=message):
            texts.token_roles(*arguments)


RANGES = np.array([[0x88F, 0x88F], [0x2427, 0x2429], [0xFFFF, 0x10000], [0x323B0, 0x33479]])


@given(st.lists(st.text(st.sampled_from("aé\u07ff\u0800\u088f\u0890\u2426\u2427\u2429\u242a中\uffff"
                                        "\U00010000\U00010001\U000323af\U000323b0\U00033479"),
                        max_size=150), max_size=6))  # fmt: skip
@settings(deadline=None)
def test_characters_are_found(strings: list[str]) -> None:
    text, offsets = flat([string.encode() for string in strings])
    expected = reference_texts.texts_with(RANGES, text, offsets)
    assert CharacterSet(RANGES).texts_with(text, offsets).tolist() == expected.tolist()


def test_every_character_from_0x800_on() -> None:
    """Alone, at the end of many others, and where two blocks of 64 bytes meet."""
    ranges = young_ranges()
    young = {code for first, last in ranges.tolist() for code in range(first, last + 1)}
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for before in (0, 61, 62, 63, 64):
        characters = CharacterSet(ranges)
        text, offsets = flat([b"a" * before + letter.encode() for letter in letters])
        found = [ord(letters[i]) for i in characters.texts_with(text, offsets)]
        assert found == sorted(young)


@pytest.mark.parametrize("bad", [[[0x7FF, 0x7FF]], [[0x900, 0x8FF]], [[0x900, 0x110000]], [0x900]])
def test_characters_outside_are_refused(bad: list) -> None:
    with pytest.raises(ValueError, match=r"is possible|must be \[n, 2\]"):
        CharacterSet(np.array(bad))


def test_half_a_character_at_the_end_is_not_read_past() -> None:
    whole = "\U000323b0".encode()
    for count in range(1, 4):
        assert CharacterSet(RANGES).texts_with(*flat([whole[:count]])).tolist() == []
