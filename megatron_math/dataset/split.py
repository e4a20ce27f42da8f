"""Which documents train and which validate, in which order, and the keys of all shuffles.

An order is computed at the positions asked for, by `native.order`'s keyed permutations; nothing of
the size of a corpus is kept. A key is made of the seed and of what is shuffled, so nothing else
(length of the run, ranks, other sources) can move a document.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megatron_math.native.file_reads import epoch_positions
from megatron_math.native.order import epoch_documents, permute

Int64Array = npt.NDArray[np.int64]


def order_key(seed: int, purpose: str, name: str, epoch: int = 0) -> int:
    """64 bits of sha256 of 'megatron-math order 2|seed|purpose|epoch|name'."""
    text = f"megatron-math order 2|{seed}|{purpose}|{epoch}|{name}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


@dataclass(frozen=True)
class Split:
    """The first `num_held_out` positions of the documents' permutation `key` are held out."""

    key: int
    num_documents: int
    num_held_out: int

    @classmethod
    def draw(cls, num_documents: int, *, seed: int, share: float, bin_digest: str) -> "Split":
        """Hold out `share` of the documents: rounded, at least one of two or more, never all.

        The draw depends on the seed and the `.bin`'s digest, not on the source's name: one corpus
        under two names is split the same way, so nothing held out is trained on by the other.
        """
        num_held_out = 0
        if share > 0 and num_documents > 1:
            num_held_out = min(max(1, round(share * num_documents)), num_documents - 1)
        return cls(order_key(seed, "validation", bin_digest), num_documents, num_held_out)


class Lengths(Protocol):
    """Tokens of every document; see `file_array.FileArray`."""

    @property
    def array(self) -> npt.NDArray: ...
    def is_mapped_for(self, num_places: int) -> bool: ...
    def take(self, places: Int64Array) -> Int64Array: ...


class Order(Protocol):
    """Documents by epoch and position; empty ones come like others, with length 0."""

    num_positions: int

    def read(self, epoch: int, first: int, count: int) -> tuple[Int64Array, Int64Array]:
        """(documents, lengths) at positions first .. first + count - 1 of the epoch."""
        ...


class TrainingOrder:
    """A source's training documents, shuffled anew in every epoch."""

    def __init__(self, lengths: Lengths, split: Split, *, seed: int, name: str):
        self.lengths, self.split = lengths, split
        self.num_positions = split.num_documents - split.num_held_out
        self._seed, self._name = seed, name

    def keys(self, epoch: int) -> tuple[int, int, int]:
        """split_key, epoch_key, num_held_out of `native.order`."""
        epoch_key = order_key(self._seed, "documents", self._name, epoch)
        return self.split.key, epoch_key, self.split.num_held_out

    def read(self, epoch: int, first: int, count: int) -> tuple[Int64Array, Int64Array]:
        keys = self.keys(epoch)
        if self.lengths.is_mapped_for(count):
            return epoch_documents(self.lengths.array, *keys, first, count)
        documents = epoch_positions(self.split.num_documents, *keys, first, count)
        return documents, self.lengths.take(documents)


class HeldOutOrder:
    """The documents held out for validation, in the split's own order, whatever the epoch."""

    def __init__(self, lengths: Lengths, split: Split):
        self.lengths, self.split = lengths, split
        self.num_positions = split.num_held_out

    def read(self, epoch: int, first: int, count: int) -> tuple[Int64Array, Int64Array]:
        documents = permute(self.split.key, self.split.num_documents, first, count)
        return documents, self.lengths.take(documents)
