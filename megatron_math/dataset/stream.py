"""The stream of samples of one source: epochs of shuffled documents, cut into segments.

Sample j of a stream depends on the source, the seed, the sequence length and the packing only.
Any sample is found in a table of what lies before each segment, and decodes its own segments
alone. A stage of training, or another run, starts a stream where the one before left it (`Mark`).

A slot is a token or a token of padding. A row is a segment of the stream, counted from its start.
"""

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math.base.config import Section
from megatron_math.dataset.split import Order

Int64Array = npt.NDArray[np.int64]
Samples = Sequence[int] | npt.NDArray[np.integer]
CACHE_BYTES = 48 << 20


class Piece(NamedTuple):
    """`tokens` ids of `document` from `start` on, then `padding` slots, in an epoch of the run."""

    document: int
    start: int
    tokens: int
    padding: int
    epoch: int = 0


class Layout(NamedTuple):
    """Samples as pieces: rows of `Piece`'s fields; sample b has starts[b] .. starts[b + 1] - 1."""

    pieces_P5: Int64Array
    starts: Int64Array

    @classmethod
    def of(cls, samples: list[Int64Array]) -> "Layout":
        starts = np.array([0, *accumulate(map(len, samples))], dtype=np.int64)
        if len(samples) == 1:
            return cls(samples[0], starts)
        return cls(np.concatenate([np.empty((0, 5), np.int64), *samples]), starts)


class Items(NamedTuple):
    """Documents that hold tokens, each from token `heads` on, `lengths` tokens to its end."""

    documents: Int64Array
    heads: Int64Array
    lengths: Int64Array


@dataclass(frozen=True)
class StreamSettings:
    """What decides the samples, besides the order of the documents."""

    sequence_length: int
    pack: Literal["concat", "whole"] = "concat"
    align: int = 1


class Inside(Section):
    """A segment used in part: `used` slots of it (concat) or packs (whole).

    It began at position `first` of its epoch, or was what `of` left over.
    """

    pack: Literal["concat", "whole"]
    sequence_length: int
    align: int
    used: int
    first: int | None
    of: "Inside | None"


class Mark(Section):
    """Where a stream stands: `inside` a segment, then at `position` of an epoch of the run."""

    epoch: int = 0
    position: int = 0
    inside: Inside | None = None


class Cache:
    """Decoded segments of all streams of a reader, the least recently used leave first."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[Any, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], tuple[Any, Iterable[npt.NDArray]]]) -> Any:
        """The value under `key`; make() -> (value, its arrays) where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][1]
        value, arrays = make()
        num_bytes = sum(array.nbytes for array in arrays)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = num_bytes, value
                self._bytes += num_bytes
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][0]
        return value


class Segments:
    """An order cut into segments of `segment_documents` positions, epoch by epoch.

    start: where the first epoch begins; what its `inside` left over is row 0, and its segments
    are counted from its position on. leftover: how an `Inside` and the items of its segment give
    what is left of them (`cuts.left_over`).
    """

    def __init__(
        self,
        order: Order,
        segment_documents: int,
        leftover: Callable[[Inside, Items], Items],
        start: Mark | None = None,
    ) -> None:
        assert order.num_positions > 0
        self.order, self.segment_documents = order, segment_documents
        self.start = start or Mark()
        self._leftover = leftover
        assert self.start.position <= order.num_positions
        to_go = order.num_positions - self.start.position
        self._first_rows = bool(self.start.inside) + -(-to_go // segment_documents)
        self._epoch_rows = -(-order.num_positions // segment_documents)

    def rows_until(self, epoch: int) -> int:
        """Rows before the first one of an epoch behind the stream's first."""
        assert epoch > self.start.epoch
        return self._first_rows + (epoch - self.start.epoch - 1) * self._epoch_rows

    def place(self, row: int) -> tuple[int, int, int]:
        """(epoch, first position, number of positions) of a row; none for what was left over."""
        if row < self._first_rows:
            number = row - bool(self.start.inside)
            if number < 0:
                return self.start.epoch, self.start.position, 0
            epoch = self.start.epoch
            first = self.start.position + number * self.segment_documents
        else:
            passed, number = divmod(row - self._first_rows, self._epoch_rows)
            epoch, first = self.start.epoch + 1 + passed, number * self.segment_documents
        return epoch, first, min(self.segment_documents, self.order.num_positions - first)

    def read(self, row: int) -> Items:
        if row == 0 and self.start.inside:
            return self._left
        return self._items(*self.place(row))

    @cached_property
    def _left(self) -> Items:
        assert self.start.inside
        return self._left_by(self.start.inside)

    def _left_by(self, inside: Inside) -> Items:
        if inside.of is not None:
            return self._leftover(inside, self._left_by(inside.of))
        assert inside.first is not None
        count = self.start.position - inside.first
        return self._leftover(inside, self._items(self.start.epoch, inside.first, count))

    def _items(self, epoch: int, first: int, count: int) -> Items:
        documents, lengths = self.order.read(epoch, first, count)
        if not lengths.all():
            documents, lengths = documents[lengths > 0], lengths[lengths > 0]
        return Items(documents, np.zeros_like(documents), lengths)

    def mark(self, row: int, settings: StreamSettings, used: int) -> Mark:
        """Where the stream stands when `used` slots or packs of a row and all before are used."""
        if row == 0 and used == 0:
            return self.start
        epoch, first, count = self.place(row)
        if used == 0:
            return Mark(epoch=epoch, position=first)
        inside = Inside(
            pack=settings.pack,
            sequence_length=settings.sequence_length,
            align=settings.align,
            used=used,
            first=first if count else None,
            of=None if count else self.start.inside,
        )
        return Mark(epoch=epoch, position=first + count, inside=inside)


class Stream(ABC):
    """Samples of one source.

    table: [2, rows + 1] of int64, what lies before each row and behind the last: tokens, and slots
    (concat) or samples (whole). It reaches as far as samples are asked for. cache: shared by the
    streams of a reader.
    """

    def __init__(
        self,
        settings: StreamSettings,
        segments: Segments,
        table: Int64Array,
        cache: Cache | None = None,
    ) -> None:
        assert settings.sequence_length % settings.align == 0
        self.settings, self.segments = settings, segments
        self._tokens, self._units = np.asarray(table[0]), np.asarray(table[1])
        self._cache = cache or Cache()

    @property
    def num_rows(self) -> int:
        return len(self._units) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens, without padding, as far as the table reaches."""
        return int(self._tokens[-1])

    def layouts(self, samples: Samples) -> Layout:
        return Layout.of([self.pieces(int(sample)) for sample in samples])

    def layout(self, sample: int) -> list[Piece]:
        """The pieces of a sample, with one token more than the sequence where a label needs it."""
        return [Piece(*row) for row in self.pieces(sample).tolist()]

    @abstractmethod
    def pieces(self, sample: int) -> Int64Array:
        """`layout` as an array."""

    @abstractmethod
    def tokens_before(self, sample: int) -> int:
        """Tokens, without padding, in all samples before `sample`."""

    @abstractmethod
    def mark(self, sample: int) -> Mark:
        """Where the stream stands when all samples before `sample` are used."""

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Samples as far as the table reaches."""

    def _find(self, unit: int) -> tuple[int, int]:
        """(row that holds a slot or a sample, its number inside that row)"""
        row = int(self._units.searchsorted(unit, "right")) - 1
        return row, unit - int(self._units[row])

    def _mark(self, unit: int) -> Mark:
        """Where the stream stands before a slot or a sample; at the first of rows that hold none.

        So it is the same for every plan of this stream, however far its table reaches.
        """
        row = int(self._units.searchsorted(unit, "left"))
        if row > self.num_rows:  # the last sample is not full
            return self.segments.mark(self.num_rows, self.settings, 0)
        if self._units[row] == unit:
            return self.segments.mark(row, self.settings, 0)
        return self.segments.mark(row - 1, self.settings, unit - int(self._units[row - 1]))
