"""The order of a stage: streams of sizes and targets in, a source number for every sample out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_math.blend.shares import Targets
from megatron_math.blend.tables import Sizes
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


def first_samples(sizes: Sizes, tokens: int) -> tuple[int, list[tuple[Int64Array, bool]]]:
    """(tokens, sizes) of the shortest prefix of a stream that holds at least `tokens`."""
    total, prefix = 0, list[tuple[Int64Array, bool]]()
    for chunk, is_last in sizes:
        sums = total + np.cumsum(chunk)
        if len(sums) and sums[-1] >= tokens:
            last = int(np.searchsorted(sums, tokens))
            return int(sums[last]), [*prefix, (chunk[: last + 1], True)]
        prefix.append((chunk, is_last))
        total = int(sums[-1]) if len(sums) else total
    return total, prefix


class _Feed:
    """Sizes of one source, topped up as they are used."""

    def __init__(self, chunks: Sizes) -> None:
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
        self.pending = parts[0] if len(parts) == 1 else np.concatenate([self.pending, *parts])


def schedule(
    targets: Targets,
    sizes: Sequence[Sizes],
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
    order = bytearray()  # grows in place, where joining arrays would hold all of it twice
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
        order += piece.astype(dtype).tobytes()
    return Schedule(np.frombuffer(order, dtype), used.tolist(), given)
