"""Typed doors to csrc/texts.cpp: many texts as one buffer of UTF-8 and the offsets inside it.

Text i is text[offsets[i] : offsets[i + 1]]. The readable twins are in `reference_texts`. Unfit
values raise ValueError with the numbers in it; the interpreter lock is released.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

ByteArray = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


class Part(NamedTuple):
    """What several texts have at one place: text i takes string choice[i] of a pool, or nothing
    where that is -1. text, offsets: the pool, flat; choice: int64[texts]."""

    text: ByteArray
    offsets: Int64Array
    choice: Int64Array


def join_texts(parts: Sequence[Part], num_texts: int) -> tuple[ByteArray, Int64Array, Int64Array]:
    """Texts out of their parts, one after another.

    Returns (text, offsets [num_texts + 1], ends [num_texts, parts]: byte inside its own text where
    each part ends).
    """
    for part in parts:
        _require_types(part)
    return _native.join_texts(parts, num_texts)


def choose_texts(
    text: ByteArray, offsets: Int64Array, choice: Int64Array
) -> tuple[ByteArray, Int64Array]:
    """The chosen strings, one after another; without a copy where what is left out is empty.

    choice: numbers of strings, rising, or -1 for an empty one.
    """
    if not len(choice) or choice.min() >= 0:
        if len(choice) == len(offsets) - 1:
            return text, offsets
        if int((offsets[choice + 1] - offsets[choice]).sum()) == len(text):
            return text, np.append(offsets[choice], offsets[-1:])
    return join_texts([Part(text, offsets, choice)], len(choice))[:2]


def token_roles(
    token_ends: Int64Array,
    lengths: npt.NDArray[np.int32],
    segment_firsts: Int64Array,
    segment_ends: Int64Array,
    segment_roles: ByteArray,
) -> ByteArray:
    """Who speaks at each token: the role of the segment that holds the token's last byte.

    token_ends: byte inside its own text where each token ends, rising inside a text; lengths:
    tokens of each text. Text i has the segments segment_firsts[i] to segment_firsts[i + 1], one at
    least, each ending at a byte of its text. A token that ends at byte 0 takes the role of the
    first byte, one behind the last segment takes that segment's.
    """
    return _native.token_roles(token_ends, lengths, segment_firsts, segment_ends, segment_roles)


def find_invalid_utf8(text: ByteArray, offsets: Int64Array) -> Int64Array:
    """Numbers of the strings that are not well-formed UTF-8."""
    return _native.find_invalid_utf8(text, offsets)


class CharacterSet:
    """Some characters from U+0800 on. ranges: int64[n, 2], first and last code point of each."""

    def __init__(self, ranges: Int64Array) -> None:
        self._native = _native.CharacterSet(ranges)

    def texts_with(self, text: ByteArray, offsets: Int64Array) -> Int64Array:
        """Numbers of the texts that hold one of the characters."""
        return self._native.texts_with(text, offsets)


def _require_types(part: Part) -> None:
    found = tuple(array.dtype.name for array in part)
    if found != ("uint8", "int64", "int64"):
        raise ValueError(f"a part is made of uint8, int64 and int64 arrays, found {found}")
