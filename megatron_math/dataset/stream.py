"""The stream of samples of one source: epochs of shuffled documents; `cuts` makes samples of them.

Sample j of a stream depends on the source, the seed, the sequence length and the packing only.
Everything is computed per epoch, when asked for; the last few epochs are kept. A stage of training
starts a stream where the stage before left it (`Remainder`).

Suffixes: D documents of an epoch in their order.  A slot is a token or a token of padding.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.split import order_key
from megatron_math.native.order import permutation

Int64Array = npt.NDArray[np.int64]
EPOCHS_KEPT = 3


class Piece(NamedTuple):
    """`tokens` ids of `document` from `start` on, then `padding` slots."""

    document: int
    start: int
    tokens: int
    padding: int


@dataclass(frozen=True)
class Remainder:
    """What is left of an epoch: documents in their order, each from token `heads_D` on."""

    epoch: int
    documents_D: Int64Array
    heads_D: Int64Array


@dataclass(frozen=True)
class StreamSettings:
    """What decides the samples, besides the documents themselves."""

    name: str
    seed: int
    sequence_length: int
    pack: str = "concat"
    align: int = 1


class Epoch(NamedTuple):
    """One pass over the documents; `cuts` is what native.order gave for it."""

    number: int
    documents_D: Int64Array
    heads_D: Int64Array
    lengths_D: Int64Array  # tokens left of each document
    slots_D: Int64Array  # the same, rounded up to `align`
    cuts: tuple[Int64Array, ...]


class Stream(ABC):
    """Samples of one source.

    lengths: tokens of every document of the index. documents: the numbers of those to be used.
    start: where to begin (default: epoch 0). end_epoch: the stream ends before this epoch
    (counted from the start of the run); None for a stream without end. shuffle: False keeps
    `documents` in the order given (validation). epoch_samples: samples of each epoch from the
    first on, as far as a plan knows them, so that a packed stream that is read in a late epoch
    need not pack the earlier ones.
    """

    def __init__(
        self,
        settings: StreamSettings,
        lengths: npt.NDArray,
        documents: Int64Array,
        *,
        start: Remainder | None = None,
        end_epoch: int | None = None,
        shuffle: bool = True,
        epoch_samples: Sequence[int] = (),
    ) -> None:
        assert len(documents) > 0
        assert settings.sequence_length % settings.align == 0
        assert end_epoch is None or end_epoch > (start.epoch if start else 0)
        self.settings = settings
        self.end_epoch = end_epoch
        self._lengths, self._documents, self._shuffle = lengths, documents, shuffle
        self._epoch_samples = list(epoch_samples)
        self._epochs: OrderedDict[int, Epoch] = OrderedDict()
        chosen = lengths[documents].astype(np.int64)
        self.epoch_tokens = int(chosen.sum())
        self._epoch_slots = int(self._to_slots(chosen).sum())
        self._start = start
        self.first_epoch = start.epoch if start else 0
        self._first_tokens, self._first_slots = self.epoch_tokens, self._epoch_slots
        if start:
            left = lengths[start.documents_D] - start.heads_D
            self._first_tokens = int(left.sum())
            self._first_slots = int(self._to_slots(left).sum())

    @property
    def total_tokens(self) -> int | None:
        """Tokens (without padding) until `end_epoch`; None for a stream without end."""
        return None if self.end_epoch is None else self._tokens_before_epoch(self.end_epoch)

    @property
    def tokens_before_start(self) -> int:
        """Tokens of this source that were used before this stream's first sample."""
        return (self.first_epoch + 1) * self.epoch_tokens - self._first_tokens

    @abstractmethod
    def layout(self, sample: int) -> list[Piece]:
        """The pieces of a sample, with one token more than the sequence where a label needs it."""

    @abstractmethod
    def tokens_before(self, sample: int) -> int:
        """Tokens, without padding, in all samples before `sample`."""

    @abstractmethod
    def remainder(self, sample: int) -> Remainder:
        """What is left of the current epoch when all samples before `sample` are used."""

    @abstractmethod
    def sizes(self) -> Iterator[tuple[Int64Array, bool]]:
        """Chunks of the samples' tokens without padding, each with 'is the last one'."""

    @abstractmethod
    def num_samples(self) -> int:
        """Samples until `end_epoch`."""

    def epoch_samples(self, num_samples: int) -> list[int]:
        """Samples of each epoch that the first `num_samples` touch; empty where arithmetic does."""
        return []

    def _to_slots(self, lengths: Int64Array) -> Int64Array:
        align = self.settings.align
        return lengths if align == 1 else -(-lengths // align) * align

    def _tokens_before_epoch(self, epoch: int) -> int:
        passed = epoch - self.first_epoch
        return self._first_tokens + (passed - 1) * self.epoch_tokens if passed else 0

    def _slots_before_epoch(self, epoch: int) -> int:
        passed = epoch - self.first_epoch
        return self._first_slots + (passed - 1) * self._epoch_slots if passed else 0

    def epoch(self, number: int) -> Epoch:
        if number in self._epochs:
            self._epochs.move_to_end(number)
            return self._epochs[number]
        if self._start and number == self.first_epoch:
            documents_D, heads_D = self._start.documents_D, self._start.heads_D
        else:
            documents_D = self._documents
            if self._shuffle:
                key = order_key(self.settings.seed, "documents", self.settings.name, number)
                documents_D = documents_D[permutation(key, len(documents_D))]
            heads_D = np.zeros(len(documents_D), dtype=np.int64)
        lengths_D = self._lengths[documents_D] - heads_D
        slots_D = self._to_slots(lengths_D)
        cuts = self._cut(number, lengths_D, slots_D)
        epoch = Epoch(number, documents_D, heads_D, lengths_D, slots_D, cuts)
        self._epochs[number] = epoch
        if len(self._epochs) > EPOCHS_KEPT:
            self._epochs.popitem(last=False)
        return epoch

    @abstractmethod
    def _cut(
        self, number: int, lengths_D: Int64Array, slots_D: Int64Array
    ) -> tuple[Int64Array, ...]: ...
