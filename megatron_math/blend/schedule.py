"""The order of a stage: streams of sizes and targets in, a source number for every sample out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_math.blend.shares import Targets
from megatron_math.blend.tables import Sizes
from megatron_math.native.order import BlendOrder

NO_LIMIT = 1 << 60
PIECE_SAMPLES = 1 << 16

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


def schedule(
    targets: Targets,
    sizes: Sequence[Sizes],
    sequence_length: int,
    max_tokens: int | None,
) -> Schedule:
    """Choose sources until `max_tokens` is reached or all have ended (see csrc/blend_order.h)."""
    starts, bases, shares = (
        np.array(values, dtype=np.int64)
        for values in (targets.starts, targets.bases, targets.shares)
    )
    nothing = np.zeros(len(sizes), dtype=np.int64)
    native = BlendOrder(starts, bases, shares, sequence_length, nothing)
    dtype = np.dtype(np.uint16 if len(sizes) < 1 << 16 else np.uint32)
    piece = np.empty(PIECE_SAMPLES, dtype)
    order = bytearray()  # grows in place, where joining arrays would hold all of it twice
    counts = nothing
    while True:
        waiting = native.waiting()
        for source in waiting:
            tokens, is_last = next(sizes[source])
            native.feed(source, tokens, not is_last)
        count = native.choose(piece, NO_LIMIT if max_tokens is None else max_tokens)
        order += piece[:count].tobytes()
        counts = counts + np.bincount(piece[:count], minlength=len(sizes))
        if not count and not waiting:
            return Schedule(np.frombuffer(order, dtype), counts.tolist(), native.given().tolist())
