"""Which documents train and which validate, and the keys of all shuffles.

Every shuffle is `native.order.permutation` under a key made of the seed and of what is shuffled, so
nothing else (length of the run, ranks, other sources) can move it.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.native.order import permutation

Int64Array = npt.NDArray[np.int64]


def order_key(seed: int, purpose: str, name: str, epoch: int = 0) -> int:
    """64 bits of sha256 of 'megatron-math order 1|seed|purpose|epoch|name'."""
    text = f"megatron-math order 1|{seed}|{purpose}|{epoch}|{name}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


@dataclass(frozen=True)
class Split:
    """Document numbers of an index; empty documents are in neither part."""

    training: Int64Array
    validation: Int64Array
    num_empty: int


def split_documents(index: IndexedDocuments, *, seed: int, share: float, bin_sha256: str) -> Split:
    """Hold out `share` of the documents: rounded, at least one of two or more, never all.

    The draw depends on the seed and the `.bin`'s digest, not on the source's name: one corpus
    under two names is split the same way, so nothing held out is trained on by the other.
    """
    filled = np.flatnonzero(index.lengths_D > 0).astype(np.int64)
    shuffled = filled[permutation(order_key(seed, "validation", bin_sha256), len(filled))]
    num_held_out = 0
    if share > 0 and len(filled) > 1:
        num_held_out = min(max(1, round(share * len(filled))), len(filled) - 1)
    return Split(
        training=shuffled[num_held_out:],
        validation=shuffled[:num_held_out],
        num_empty=index.num_documents - len(filled),
    )
