"""The order of a stage: streams of sizes and targets in, a source number for every sample out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_math.blend.shares import Targets
from megatron_math.dataset.stream import Stream
from megatron_math.native.order import blend_order

NO_LIMIT = 1 << 60
PENDING_SAMPLES = 4096  # sizes kept ahead of each source, so that tiny epochs cost few calls

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """order_N: source of each sample. By source: samples and tokens (without padding) used."""

    order_N: npt.NDArray[np.unsignedinteger]
    samples: list[int]
    tokens: list[int]


def first_samples(stream: Stream, tokens: int) -> tuple[int, int]:
    """(samples, tokens) of the shortest prefix of the stream that holds at least `tokens`."""
    num_samples = total = 0
    for sizes, _ in stream.sizes():
        sums = total + np.cumsum(sizes)
        if len(sums) and sums[-1] >= tokens:
            last = int(np.searchsorted(sums, tokens))
            return num_samples + last + 1, int(sums[last])
        num_samples += len(sizes)
        total = int(sums[-1]) if len(sums) else total
    return num_samples, total


def cut_sizes(stream: Stream, num_samples: int | None) -> Iterator[tuple[Int64Array, bool]]:
    """The stream's sizes, ended after `num_samples` where that is given."""
    for sizes, is_last in stream.sizes():
        if num_samples is not None:
            sizes = sizes[:num_samples]
            num_samples -= len(sizes)
            is_last = is_last or num_samples == 0
        yield sizes, is_last
        if is_last:
            return


class _Feed:
    """Sizes of one source, topped up as they are used."""

    def __init__(self, chunks: Iterator[tuple[Int64Array, bool]]) -> None:
        self._chunks = chunks
        self.pending = np.empty(0, dtype=np.int64)
        self.more = True

    def use(self, count: int) -> None:
        self.pending = self.pending[count:]
        if len(self.pending):
            return
        parts: list[Int64Array] = []
        while self.more and sum(map(len, parts)) < PENDING_SAMPLES:
            sizes, is_last = next(self._chunks)
            parts.append(sizes)
            self.more = not is_last
        self.pending = np.concatenate([self.pending, *parts])


def schedule(
    targets: Targets,
    sizes: Sequence[Iterator[tuple[Int64Array, bool]]],
    sequence_length: int,
    max_tokens: int | None,
) -> Schedule:
    """Choose sources until `max_tokens` is reached or all have ended (see csrc/blend_order.h)."""
    feeds = [_Feed(chunks) for chunks in sizes]
    given = [0] * len(feeds)
    used = np.zeros(len(feeds), dtype=np.int64)
    counts = used
    starts, bases, shares = (
        np.array(values, dtype=np.int64)
        for values in (targets.starts, targets.bases, targets.shares)
    )
    dtype = np.uint16 if len(feeds) < 1 << 16 else np.uint32
    pieces: list[npt.NDArray] = []
    while True:
        for feed, count in zip(feeds, counts, strict=True):
            feed.use(int(count))
        piece, after = blend_order(
            starts,
            bases,
            shares,
            [feed.pending for feed in feeds],
            [feed.more for feed in feeds],
            sequence_length,
            NO_LIMIT if max_tokens is None else max_tokens,
            given,
        )
        if len(piece) == 0:
            break
        given = after.tolist()
        counts = np.bincount(piece, minlength=len(feeds))
        used = used + counts
        pieces.append(piece.astype(dtype))
    return Schedule(np.concatenate([np.empty(0, dtype), *pieces]), used.tolist(), given)
