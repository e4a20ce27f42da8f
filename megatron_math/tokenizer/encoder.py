"""Encoders: flat UTF-8 in, flat ids out, by a fast engine or by the reference library.

The reference decides what the ids of a text are; a fast engine runs only where it was found to
agree with it. Texts are given as one buffer: text i is text[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_math.tokenizer.sample import SAMPLE
from megatron_math.tokenizer.young_characters import young_texts

if TYPE_CHECKING:
    from megatron_math.tokenizer.interface import Tokenizer

UInt8s = npt.NDArray[np.uint8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Row = Sequence[int] | npt.NDArray[Any]  # ids of one text


class Encoder(ABC):
    """name: library and version. why: why it is this one. Several threads may share one.

    is_reference: whether the library that defines the ids is behind it. find_young: a faster
    `young_texts`, from whoever has one.
    """

    name: str
    why: str
    is_reference = False
    find_young: Callable[[UInt8s, Int64s], Int64s] = staticmethod(young_texts)

    @abstractmethod
    def encode_flat(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        """Ids of all texts one after another (int32), and their number for each text (int32).

        text: UTF-8, uint8[bytes]. offsets: int64[n + 1]. No special tokens are added.
        """


class ReferenceEncoder(Encoder):
    """The library that defines the ids. One text after another on the calling thread."""

    is_reference = True

    def __init__(self, tokenizer: Tokenizer, why: str) -> None:
        self.name = f"{tokenizer.library} {version(tokenizer.library)}"
        self.why = why
        self._rows_of = tokenizer.encode_rows

    def encode_flat(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        return flat_rows(self._rows_of(split_texts(text, offsets)))


def flat_rows(rows: Sequence[Row]) -> tuple[Int32s, Int32s]:
    """Rows of ids as one int32 array, and their lengths (int32)."""
    lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
    ids = np.empty(int(lengths.sum(dtype=np.int64)), dtype=np.int32)
    end = 0
    for row in rows:
        start, end = end, end + len(row)
        ids[start:end] = row
    return ids, lengths


def flat_texts(texts: Iterable[str]) -> tuple[UInt8s, Int64s]:
    """Texts as one UTF-8 buffer, uint8[bytes], and its offsets, int64[n + 1]."""
    pieces = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets


def split_texts(text: UInt8s, offsets: Int64s) -> list[str]:
    """The texts of a flat buffer. UnicodeDecodeError where one is no UTF-8."""
    whole, bounds = np.ascontiguousarray(text).data, offsets.tolist()
    return [
        str(whole[start:end], "utf-8") for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def open_encoder(tokenizer: Tokenizer, engine: str) -> Encoder:
    """See Tokenizer.open_encoder."""
    if engine == "reference":
        return ReferenceEncoder(tokenizer, "asked for")
    assert engine == "auto", f"engine must be 'auto' or 'reference', not {engine!r}"
    # Imported here: whoever only decodes or reads special tokens shall not load the fast engine.
    from megatron_math.tokenizer.gigatoken import GigatokenEncoder, NotUsable

    try:
        fast = GigatokenEncoder(tokenizer)
    except NotUsable as error:
        return ReferenceEncoder(tokenizer, str(error))
    probes = opening_texts(tokenizer)
    text, offsets = flat_texts(probes)
    differing = differing_texts(fast, tokenizer.open_checker(), text, offsets)
    if differing:
        return ReferenceEncoder(
            tokenizer,
            f"{fast.name} gives other ids on {len(differing)} of {len(probes)} texts of the "
            f"check, the first of them {probes[differing[0]][:60]!r}",
        )
    fast.why = f"same ids as {tokenizer.library} on the {len(probes)} texts of the check"
    return fast


def opening_texts(tokenizer: Tokenizer) -> list[str]:
    """What a fast engine is compared on before it is let in."""
    return [*SAMPLE, *probes_of(tokenizer.names_in_text())]


def probes_of(names: Iterable[str]) -> list[str]:
    """Texts that hold each of `names` alone, inside a word, twice, and among white space."""
    probes = []
    for name in names:
        probes += [
            name,
            f"a{name}b {name} {name}{name}1",
            f"  {name}  ,\n{name}\n\n\t{name}\t.",
        ]
    return probes


def differing_texts(one: Encoder, other: Encoder, text: UInt8s, offsets: Int64s) -> list[int]:
    """Indexes of the texts for which two encoders give different ids."""
    (ids, lengths), (other_ids, other_lengths) = (
        encoder.encode_flat(text, offsets) for encoder in (one, other)
    )
    if np.array_equal(lengths, other_lengths) and np.array_equal(ids, other_ids):
        return []
    row, other_row = _rows(ids, lengths), _rows(other_ids, other_lengths)
    return [i for i in range(len(lengths)) if not np.array_equal(row(i), other_row(i))]


def _rows(ids: Int32s, lengths: Int32s) -> Callable[[int], Int32s]:
    ends = np.cumsum(lengths, dtype=np.int64)
    return lambda i: ids[ends[i] - lengths[i] : ends[i]]
