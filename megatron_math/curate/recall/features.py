"""Texts as bags of hashed runs of words, in arrays: what a linear classifier reads.

A word is a run of letters, digits and `_`, a LaTeX command with its backslash, one sign of
mathematics, or one ideograph; case is folded and every digit is a 0. Hashes are of the words' UTF-8
alone, so they are equal on every machine and in every version of Python.

Shapes: T bytes of a batch, W words, F features, D texts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PIECE_CHARACTERS = 1 << 20
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_SIGNS = b"$=+^{}<>&#*/|%"
_PRIME = 0x9E3779B97F4A7C55
_SEPARATOR, _INSIDE, _ALONE, _BACKSLASH = 0, 1, 2, 3


def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(256, _SEPARATOR, np.uint8)
    kinds[0x80:] = _INSIDE
    for byte in b"abcdefghijklmnopqrstuvwxyz0123456789_":
        kinds[byte] = _INSIDE
    for byte in _SIGNS:
        kinds[byte] = _ALONE
    kinds[ord("\\")] = _BACKSLASH
    return kinds


_KIND = _kinds()
_FOLDED = np.arange(256, dtype=np.uint8)
_FOLDED[ord("0") : ord("9") + 1] = ord("0")


@dataclass(frozen=True)
class Bags:
    """features: uint32[F], numbers below 2 ** bits, one text after another. offsets: int64[D + 1],
    where each text begins among them. num_words: int64[D]."""

    features: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    num_words: npt.NDArray[np.int64]


class BagReader:
    """Reads texts as runs of 1 to `longest_run` words, hashed to `bits` bits."""

    def __init__(self, longest_run: int, bits: int) -> None:
        self.longest_run, self.bits = longest_run, bits
        self._powers = self._inverses = np.ones(1, np.uint64)

    def read(self, texts: Sequence[str]) -> Bags:
        """The bags of some texts; long lists are read piece by piece."""
        parts = [self._read_piece(piece) for piece in _pieces(texts)]
        counts = np.concatenate([np.diff(offsets) for _, offsets, _ in parts] or [np.zeros(0, int)])
        return Bags(
            np.concatenate([features for features, _, _ in parts] or [np.zeros(0, np.uint32)]),
            np.append(0, np.cumsum(counts)).astype(np.int64),
            np.concatenate([words for _, _, words in parts] or [np.zeros(0, np.int64)]),
        )

    def _read_piece(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        encoded = [_encode(text) for text in texts]
        bytes_T = _FOLDED[np.frombuffer(b"\n".join(encoded) + b"\n", np.uint8)]
        text_ends_D = np.cumsum([len(text) + 1 for text in encoded])
        begins_W, ends_W = _words(_KIND[bytes_T])
        hashes_W = self._hash(bytes_T, begins_W, ends_W)
        num_words_D = np.diff(np.append(0, np.searchsorted(begins_W, text_ends_D)))
        text_W = np.repeat(np.arange(len(texts)), num_words_D)
        counts = [np.maximum(num_words_D - k, 0) for k in range(self.longest_run)]
        offsets = np.append(0, np.cumsum(np.sum(counts, axis=0)))
        features_F = np.empty(offsets[-1], np.uint32)
        next_D, run_W = offsets[:-1].copy(), hashes_W
        for k, count_D in enumerate(counts):
            inside = run_W
            if k:
                run_W = _mix(run_W[:-1] * np.uint64(_PRIME) + hashes_W[k:])
                inside = run_W[text_W[: len(run_W)] == text_W[k:]]
            first_D = np.cumsum(count_D) - count_D
            places = np.repeat(next_D - first_D, count_D) + np.arange(len(inside))
            features_F[places] = inside >> np.uint64(64 - self.bits)
            next_D += count_D
        return features_F, offsets, num_words_D

    def _hash(
        self,
        bytes_T: npt.NDArray[np.uint8],
        begins_W: npt.NDArray[np.int64],
        ends_W: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.uint64]:
        """Of each word the polynomial of its bytes modulo 2 ** 64, mixed: from prefix sums."""
        if len(self._powers) <= len(bytes_T):
            size = 1 << len(bytes_T).bit_length()
            self._powers = _powers(_PRIME, size)
            self._inverses = _powers(pow(_PRIME, -1, 1 << 64), size)
        sums = np.zeros(len(bytes_T) + 1, np.uint64)
        np.cumsum((bytes_T + np.uint64(1)) * self._powers[: len(bytes_T)], out=sums[1:])
        return _mix((sums[ends_W] - sums[begins_W]) * self._inverses[begins_W])


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin = characters = 0
    for number, text in enumerate(texts):
        characters += len(text)
        if characters >= PIECE_CHARACTERS:
            yield texts[begin : number + 1]
            begin, characters = number + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def _encode(text: str) -> bytes:
    if not text.isascii():
        text = _IDEOGRAPH.sub(r" \g<0> ", text)
    return text.lower().encode("utf-8", "surrogatepass")


def _words(kind_T: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where words begin and end. The last byte is no part of a word."""
    before_T = np.concatenate([np.zeros(1, np.uint8), kind_T[:-1]])
    is_inside_T = kind_T == _INSIDE
    starts_T = (is_inside_T & (before_T != _INSIDE) & (before_T != _BACKSLASH)) | (kind_T > _INSIDE)
    begins_W = np.flatnonzero(starts_T)
    # A word ends where the next byte is no longer inside: of a run, its end; of a sign, one byte.
    stops = np.flatnonzero(~is_inside_T)
    ends_W = stops[np.searchsorted(stops, begins_W + 1)] if len(begins_W) else begins_W
    ends_W = np.where(kind_T[begins_W] == _ALONE, begins_W + 1, ends_W)
    return begins_W, ends_W


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit of the result depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
