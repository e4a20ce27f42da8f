"""The readable twins of `texts`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_math.native.texts import ByteArray, Int64Array, Part


def join_texts(parts: Sequence[Part], num_texts: int) -> tuple[ByteArray, Int64Array, Int64Array]:
    texts: list[bytes] = []
    ends = np.zeros((num_texts, len(parts)), np.int64)
    for i in range(num_texts):
        text = b""
        for k, part in enumerate(parts):
            if part.choice[i] >= 0:
                begin, end = part.offsets[part.choice[i] : part.choice[i] + 2]
                text += part.text[begin:end].tobytes()
            ends[i, k] = len(text)
        texts.append(text)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return np.frombuffer(b"".join(texts), np.uint8), offsets, ends


def token_roles(
    token_ends: Int64Array,
    lengths: npt.NDArray[np.int32],
    segment_firsts: Int64Array,
    segment_ends: Int64Array,
    segment_roles: ByteArray,
) -> ByteArray:
    roles = []
    token = 0
    for i, length in enumerate(lengths):
        here = slice(segment_firsts[i], segment_firsts[i + 1])
        for end in token_ends[token : token + length]:
            holds_it = np.flatnonzero(segment_ends[here] >= max(end, 1))
            roles.append(segment_roles[here][holds_it[0] if len(holds_it) else -1])
        token += int(length)
    return np.array(roles, np.uint8)


def find_invalid_utf8(text: ByteArray, offsets: Int64Array) -> Int64Array:
    found = []
    for i, (begin, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        try:
            text[begin:end].tobytes().decode("utf-8")
        except UnicodeDecodeError:
            found.append(i)
    return np.array(found, np.int64)


def texts_with(ranges: Int64Array, text: ByteArray, offsets: Int64Array) -> Int64Array:
    """Twin of CharacterSet.texts_with."""
    found = []
    for i, (begin, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        letters = {ord(letter) for letter in text[begin:end].tobytes().decode("utf-8")}
        if any(first <= letter <= last for letter in letters for first, last in ranges.tolist()):
            found.append(i)
    return np.array(found, np.int64)
