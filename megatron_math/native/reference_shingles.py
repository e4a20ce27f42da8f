"""The readable twin of `shingles`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_math.native.reference_words import split
from megatron_math.native.shingles import SEED, Int64Array
from megatron_math.native.words import Splitting

_MASK = 2**64 - 1
_BASE = 0x9FB21C651E98DF25


def shingles(text: bytes, shingle_words: int) -> set[tuple[bytes, ...]]:
    """The set itself, of words."""
    words = [word.form for word in split(text, Splitting.PLAIN)]
    length = min(shingle_words, len(words))
    return (
        {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()
    )


def jaccard(first: bytes, second: bytes, shingle_words: int) -> float:
    a, b = shingles(first, shingle_words), shingles(second, shingle_words)
    return len(a & b) / len(a | b) if a | b else 0.0


def bands(
    texts: Sequence[bytes], shingle_words: int, num_bands: int, band_rows: int
) -> tuple[npt.NDArray[np.uint64], Int64Array]:
    """Twin of ShingleHasher.bands."""
    drawn = [_mix(SEED + _mix(i + 1)) for i in range(num_bands * band_rows)]
    keys = []
    for text in texts:
        hashes = [_hash(shingle) >> 32 for shingle in shingles(text, shingle_words)]
        minima = [
            min((((d | 1) * x + (d >> 32)) % 2**32 for x in hashes), default=2**32 - 1)
            for d in drawn
        ]
        row = []
        for band in range(num_bands):
            key = _mix(band + 1)
            for minimum in minima[band * band_rows : (band + 1) * band_rows]:
                key = _mix(key ^ minimum)
            row.append(key)
        keys.append(row)
    num_words = [len(split(text, Splitting.PLAIN)) for text in texts]
    return (
        np.array(keys, np.uint64).reshape(len(texts), num_bands),
        np.array(num_words, np.int64),
    )


def _hash(shingle: tuple[bytes, ...]) -> int:
    key = 0
    for word in shingle:
        key = (key * _BASE + _hash_bytes(word)) & _MASK
    return _mix(key)


def _hash_bytes(word: bytes) -> int:
    value = 0x9E3779B97F4A7C15 ^ len(word)
    for at in range(0, len(word), 8):
        block = int.from_bytes(word[at : at + 8], "little")
        value = _fold_multiply(value ^ block, 0xA0761D6478BD642F)
    return _fold_multiply(value, 0xE7037ED1A0B428DB)


def _fold_multiply(a: int, b: int) -> int:
    return (a * b & _MASK) ^ (a * b >> 64)


def _mix(x: int) -> int:
    for _ in range(2):
        x = ((x & _MASK) ^ (x & _MASK) >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return x ^ x >> 32
