"""The two ways to make samples of a stream's documents: `concat` and `whole` (`STREAMS`).

Suffixes: D documents of an epoch in their order, P pieces of its packs.
"""

from collections.abc import Iterator

import numpy as np

from megatron_math.dataset.stream import Epoch, Int64Array, Piece, Remainder, Stream
from megatron_math.native.order import pack_index, sample_index

# Open bins. 200,000 GSM8K-like lengths at 4,096: 0.354, 0.336 and 0.333 % padding with 16, 64 and
# 256 (2026-11-21).
PACK_WINDOW = 64
CHUNK_SAMPLES = 1 << 16


class ConcatStream(Stream):
    """Documents end to end over all epochs; sample j holds slots j*S to j*S+S, the last a label.

    Documents begin at multiples of `align`, which divides S: no sample begins inside padding.
    """

    def _cut(
        self, number: int, lengths_D: Int64Array, slots_D: Int64Array
    ) -> tuple[Int64Array, ...]:
        offset = self._slots_before_epoch(number)
        return (sample_index(slots_D, self.settings.sequence_length, offset),)

    def num_samples(self) -> int:
        assert self.end_epoch is not None
        return -(-self._slots_before_epoch(self.end_epoch) // self.settings.sequence_length)

    def _locate(self, sample: int) -> tuple[int, int, int]:
        """(epoch, position in its order, slot inside that document) of a sample's first slot."""
        slot = sample * self.settings.sequence_length
        epoch = self.first_epoch
        if slot >= self._first_slots:
            epoch += 1 + (slot - self._first_slots) // self._epoch_slots
        before = -(-self._slots_before_epoch(epoch) // self.settings.sequence_length)
        position, offset = self.epoch(epoch).cuts[0][sample - before]
        return epoch, int(position), int(offset)

    def layout(self, sample: int) -> list[Piece]:
        number, position, offset = self._locate(sample)
        wanted = self.settings.sequence_length + 1
        pieces: list[Piece] = []
        while wanted > 0 and number != self.end_epoch:
            epoch = self.epoch(number)
            num_documents = len(epoch.documents_D)
            while wanted > 0 and position < num_documents:
                tokens = min(int(epoch.lengths_D[position]) - offset, wanted)
                padding = min(int(epoch.slots_D[position]) - offset - tokens, wanted - tokens)
                start = int(epoch.heads_D[position]) + offset
                pieces.append(Piece(int(epoch.documents_D[position]), start, tokens, padding))
                wanted -= tokens + padding
                position, offset = position + 1, 0
            number, position = number + 1, 0
        return pieces

    def tokens_before(self, sample: int) -> int:
        slot, total = sample * self.settings.sequence_length, self.total_tokens
        if self.settings.align == 1:
            return slot if total is None else min(slot, total)
        if self.end_epoch is not None and slot >= self._slots_before_epoch(self.end_epoch):
            return self._tokens_before_epoch(self.end_epoch)
        number, position, offset = self._locate(sample)
        inside = int(self.epoch(number).lengths_D[:position].sum()) + offset
        return self._tokens_before_epoch(number) + inside

    def remainder(self, sample: int) -> Remainder:
        slot = sample * self.settings.sequence_length
        if self.end_epoch is not None and slot >= self._slots_before_epoch(self.end_epoch):
            epoch = self.epoch(self.end_epoch)
            return Remainder(self.end_epoch, epoch.documents_D, epoch.heads_D)
        number, position, offset = self._locate(sample)
        epoch = self.epoch(number)
        heads_D = epoch.heads_D[position:].copy()
        heads_D[0] += offset
        return Remainder(epoch.number, epoch.documents_D[position:], heads_D)

    def sizes(self) -> Iterator[tuple[Int64Array, bool]]:
        if self.settings.align == 1:
            yield from self._even_sizes()
            return
        number, sample, before = self.first_epoch, 0, 0
        while number != self.end_epoch:
            epoch = self.epoch(number)
            position, offset = epoch.cuts[0].T
            sums = np.concatenate([[0], np.cumsum(epoch.lengths_D)])
            inside = sums[position] + offset
            sample += len(position)
            number += 1
            after = self.tokens_before(sample)
            marks = np.append(self._tokens_before_epoch(epoch.number) + inside, after)
            assert len(position) == 0 or marks[0] == before
            before = after
            yield np.diff(marks), number == self.end_epoch

    def _even_sizes(self) -> Iterator[tuple[Int64Array, bool]]:
        length, total = self.settings.sequence_length, self.total_tokens
        chunk = np.full(CHUNK_SAMPLES, length, dtype=np.int64)
        if total is None:
            while True:
                yield chunk, False
        whole, rest = divmod(total, length)
        for _ in range(whole // CHUNK_SAMPLES):
            yield chunk, False
        last = chunk[: whole % CHUNK_SAMPLES]
        yield (np.append(last, rest) if rest else last), True


class WholeStream(Stream):
    """Documents packed whole (best fit), epoch by epoch; only longer ones than S are cut."""

    def _cut(
        self, number: int, lengths_D: Int64Array, slots_D: Int64Array
    ) -> tuple[Int64Array, ...]:
        settings = self.settings
        return pack_index(lengths_D, settings.sequence_length, settings.align, PACK_WINDOW)

    def _samples_of_epoch(self, number: int) -> int:
        known = self._epoch_samples
        while len(known) <= number - self.first_epoch:
            known.append(len(self.epoch(self.first_epoch + len(known)).cuts[1]) - 1)
        return known[number - self.first_epoch]

    def epoch_samples(self, num_samples: int) -> list[int]:
        """Samples of each epoch that the stream's first `num_samples` touch."""
        touched: list[int] = []
        while sum(touched) < num_samples:
            touched.append(self._samples_of_epoch(self.first_epoch + len(touched)))
        return touched

    def num_samples(self) -> int:
        assert self.end_epoch is not None
        return sum(map(self._samples_of_epoch, range(self.first_epoch, self.end_epoch)))

    def _locate(self, sample: int) -> tuple[Epoch, int]:
        """(epoch, pack inside it)"""
        number = self.first_epoch
        while sample >= self._samples_of_epoch(number):
            sample -= self._samples_of_epoch(number)
            number += 1
        return self.epoch(number), sample

    def layout(self, sample: int) -> list[Piece]:
        epoch, pack = self._locate(sample)
        length, align = self.settings.sequence_length, self.settings.align
        pieces_P3, starts = epoch.cuts
        pieces = []
        for position, start, tokens in pieces_P3[starts[pack] : starts[pack + 1]].tolist():
            if tokens == length and start + tokens < epoch.lengths_D[position]:
                tokens += 1  # the cut document's next token is the last label
            first = int(epoch.heads_D[position]) + start
            pieces.append(Piece(int(epoch.documents_D[position]), first, tokens, -tokens % align))
        return pieces

    def tokens_before(self, sample: int) -> int:
        epoch, pack = self._locate(sample)
        pieces_P3, starts = epoch.cuts
        return self._tokens_before_epoch(epoch.number) + int(pieces_P3[: starts[pack], 2].sum())

    def remainder(self, sample: int) -> Remainder:
        epoch, pack = self._locate(sample)
        pieces_P3, starts = epoch.cuts
        used_D = np.zeros(len(epoch.documents_D), dtype=np.int64)
        np.add.at(used_D, pieces_P3[: starts[pack], 0], pieces_P3[: starts[pack], 2])
        left = used_D < epoch.lengths_D  # a cut document's pieces come in order: a tail is left
        return Remainder(epoch.number, epoch.documents_D[left], epoch.heads_D[left] + used_D[left])

    def sizes(self) -> Iterator[tuple[Int64Array, bool]]:
        number = self.first_epoch
        while number != self.end_epoch:
            pieces_P3, starts = self.epoch(number).cuts
            self._samples_of_epoch(number)
            number += 1
            yield np.add.reduceat(pieces_P3[:, 2], starts[:-1]), number == self.end_epoch


STREAMS: dict[str, type[Stream]] = {"concat": ConcatStream, "whole": WholeStream}
