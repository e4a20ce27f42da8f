"""The two ways to make samples of a stream's segments: `concat` and `whole` (`STREAMS`)."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.split import TrainingOrder
from megatron_math.dataset.stream import (
    Inside,
    Int64Array,
    Items,
    Layout,
    Mark,
    Samples,
    Stream,
    StreamSettings,
)
from megatron_math.native.order import concat_pieces, pack_index

PACK_WINDOW = 64  # open bins
CONCAT_SEGMENT = 128  # positions; a random sample decodes one of them, or two
# Bins that a segment leaves half empty must not matter, and a segment must be decoded in no time.
PACKS_A_SEGMENT, LEAST_SEGMENT, LARGEST_SEGMENT = 2048, 1 << 12, 1 << 18


def segment_documents(settings: StreamSettings, num_documents: int, num_tokens: int) -> int:
    """Positions of a segment for documents that hold `num_tokens` together: a power of two."""
    if settings.pack == "concat":
        return CONCAT_SEGMENT
    wanted = PACKS_A_SEGMENT * settings.sequence_length * num_documents // max(1, num_tokens)
    return min(max(LEAST_SEGMENT, 1 << max(0, wanted - 1).bit_length()), LARGEST_SEGMENT)


def to_slots(lengths: Int64Array, align: int) -> Int64Array:
    return lengths if align == 1 else -(-lengths // align) * align


class Packs(NamedTuple):
    """pieces_P3: item, start inside it, tokens; pack p has starts[p] .. starts[p + 1] - 1."""

    pieces_P3: Int64Array
    starts: Int64Array

    def tokens(self) -> Int64Array:
        """Tokens, without padding, of each pack."""
        sums = np.concatenate([[0], np.cumsum(self.pieces_P3[:, 2])])
        return np.diff(sums[self.starts])


def pack(items: Items, sequence_length: int, align: int) -> Packs:
    return Packs(*pack_index(items.lengths, sequence_length, align, PACK_WINDOW))


def left_over(inside: Inside, items: Items) -> Items:
    """What `inside` leaves of its segment's items."""
    if inside.pack == "concat":
        ends = np.cumsum(to_slots(items.lengths, inside.align))
        first = int(np.searchsorted(ends, inside.used, side="right"))
        used = np.zeros(len(items.lengths), dtype=np.int64)
        used[:first] = items.lengths[:first]
        used[first:][:1] = inside.used - (ends[first - 1] if first else 0)
    else:
        pieces_P3, starts = pack(items, inside.sequence_length, inside.align)
        taken = pieces_P3[: starts[inside.used]]
        used = np.zeros(len(items.lengths), dtype=np.int64)
        np.add.at(used, taken[:, 0], taken[:, 2])
    left = used < items.lengths  # a cut document's pieces come in order: a tail is left
    return Items(items.documents[left], (items.heads + used)[left], (items.lengths - used)[left])


class _Laid(NamedTuple):
    """A row of a concat stream: its items as whole pieces, where each begins and ends in slots."""

    pieces_P5: Int64Array
    begins: Int64Array
    ends: Int64Array


class ConcatStream(Stream):
    """Documents end to end over all epochs; sample j holds slots j*S to j*S+S, the last a label.

    Documents begin at multiples of `align`, which divides S: no sample begins inside padding.
    """

    @property
    def num_samples(self) -> int:
        return -(-int(self._units[-1]) // self.settings.sequence_length)

    def _row(self, row: int) -> _Laid:
        def make() -> tuple[_Laid, _Laid]:
            items = self.segments.read(row)
            slots = to_slots(items.lengths, self.settings.align)
            ends = slots.cumsum()
            pieces_P5 = np.empty((len(slots), 5), dtype=np.int64)
            pieces_P5[:, 0], pieces_P5[:, 1], pieces_P5[:, 2] = items
            pieces_P5[:, 3] = slots - items.lengths
            pieces_P5[:, 4] = self.segments.place(row)[0]
            laid = _Laid(pieces_P5, ends - slots, ends)
            return laid, laid

        return self._cache.get((self, row), make)

    def pieces(self, sample: int) -> Int64Array:
        first = sample * self.settings.sequence_length
        stop = first + self.settings.sequence_length + 1
        row, offset = self._find(first)
        parts = []
        while first < stop and row < self.num_rows:
            parts.append(_cut_out(self._row(row), offset, offset + stop - first))
            row, offset = row + 1, 0
            first = int(self._units[row])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def layouts(self, samples: Samples) -> Layout:
        sample_B, first = np.ascontiguousarray(samples, dtype=np.int64), self._first_native_sample
        if first is None or (first and (sample_B < first).any()):
            return super().layouts(sample_B.tolist())
        return Layout(*self._concat_pieces(sample_B))

    @cached_property
    def _first_native_sample(self) -> int | None:
        """None: what an earlier stage left over, and lengths that are not mapped, go the way of
        `pieces`."""
        order, segments = self.segments.order, self.segments
        if not isinstance(order, TrainingOrder):
            return None
        if not order.lengths.is_mapped_for(segments.segment_documents):
            return None
        left_slots = int(self._units[1]) if segments.start.inside else 0
        return -(-left_slots // self.settings.sequence_length)

    @cached_property
    def _concat_pieces(self) -> Callable[[Int64Array], tuple[Int64Array, Int64Array]]:
        order, segments = self.segments.order, self.segments
        assert isinstance(order, TrainingOrder)
        return partial(
            concat_pieces,
            order.lengths.array,
            order.split.key,
            order.split.num_held_out,
            self._epoch_keys,
            segments.start.epoch,
            segments.start.position,
            segments.segment_documents,
            self.settings.align,
            self._slots_before,
            self.settings.sequence_length,
        )

    @cached_property
    def _slots_before(self) -> Int64Array:
        """Slots before each segment and behind the last, without what was left over before."""
        left_over = bool(self.segments.start.inside)
        return np.ascontiguousarray(self._units[left_over:], dtype=np.int64)

    @cached_property
    def _epoch_keys(self) -> npt.NDArray[np.uint64]:
        order, start = self.segments.order, self.segments.start
        assert isinstance(order, TrainingOrder)
        last = self.segments.place(self.num_rows - 1)[0] if self.num_rows else start.epoch
        epochs = range(start.epoch, last + 1)
        return np.array([order.keys(epoch)[1] for epoch in epochs], dtype=np.uint64)

    def tokens_before(self, sample: int) -> int:
        slot = sample * self.settings.sequence_length
        if slot >= self._units[-1]:
            return self.num_tokens
        if self.settings.align == 1:
            return slot
        row, offset = self._find(slot)
        laid = self._row(row)
        item = int(laid.ends.searchsorted(offset, "right"))
        inside = int(laid.pieces_P5[:item, 2].sum()) + offset - int(laid.begins[item])
        return int(self._tokens[row]) + inside

    def mark(self, sample: int) -> Mark:
        return self._mark(sample * self.settings.sequence_length)


def _cut_out(laid: _Laid, first: int, stop: int) -> Int64Array:
    """What a row's slots first .. stop - 1 hold; slot `first` holds a token."""
    begin = int(laid.ends.searchsorted(first, "right"))
    end = int(laid.begins.searchsorted(stop, "left"))
    part = laid.pieces_P5[begin:end].copy()
    if begin == end:  # a row of empty documents
        return part
    cut = first - int(laid.begins[begin])
    if cut > 0:
        part[0, 1] += cut
        part[0, 2] -= cut
    over = int(laid.ends[end - 1]) - stop
    if over > 0:
        padding = int(part[-1, 3])
        part[-1, 3] = max(0, padding - over)
        part[-1, 2] -= max(0, over - padding)
    return part


class _Packed(NamedTuple):
    """A row of a whole stream: its packs' pieces as `Piece` has them, and where packs begin."""

    pieces_P5: Int64Array
    starts: Int64Array
    tokens_before: Int64Array  # of each pack, inside the row


class WholeStream(Stream):
    """Documents packed whole (best fit), segment by segment; only longer ones than S are cut."""

    @property
    def num_samples(self) -> int:
        return int(self._units[-1])

    def _row(self, row: int) -> _Packed:
        def make() -> tuple[_Packed, _Packed]:
            length, align = self.settings.sequence_length, self.settings.align
            items = self.segments.read(row)
            packs = pack(items, length, align)
            item, start, tokens = packs.pieces_P3.T
            # The token behind a sequence that a longer document fills is the last label.
            goes_on = (tokens == length) & (start + tokens < items.lengths[item])
            pieces_P5 = np.empty((len(item), 5), dtype=np.int64)
            pieces_P5[:, 0] = items.documents[item]
            pieces_P5[:, 1] = items.heads[item] + start
            pieces_P5[:, 2] = tokens + goes_on
            pieces_P5[:, 3] = np.where(goes_on, 0, to_slots(tokens, align) - tokens)
            pieces_P5[:, 4] = self.segments.place(row)[0]
            before = np.concatenate([[0], np.cumsum(packs.tokens())])
            packed = _Packed(pieces_P5, packs.starts, before)
            return packed, packed

        return self._cache.get((self, row), make)

    def pieces(self, sample: int) -> Int64Array:
        row, number = self._find(sample)
        packed = self._row(row)
        return packed.pieces_P5[packed.starts[number] : packed.starts[number + 1]]

    def tokens_before(self, sample: int) -> int:
        if sample == self.num_samples:
            return self.num_tokens
        row, number = self._find(sample)
        return int(self._tokens[row]) + int(self._row(row).tokens_before[number])

    def mark(self, sample: int) -> Mark:
        return self._mark(sample)


STREAMS: dict[str, type[Stream]] = {"concat": ConcatStream, "whole": WholeStream}
