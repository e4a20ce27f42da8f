"""Streams over given lengths, planned as the blend room plans them, without files."""

from typing import Any

import numpy as np

from megatron_math.blend.tables import PLANNED, Planned
from megatron_math.dataset.cuts import STREAMS, segment_documents
from megatron_math.dataset.split import Split, TrainingOrder
from megatron_math.dataset.stream import Mark, Stream, StreamSettings


class Given:
    """Lengths in memory."""

    def __init__(self, lengths: Any) -> None:
        self.array = np.asarray(lengths, dtype=np.int32)

    def is_mapped_for(self, num_places: int) -> bool:
        return True

    def take(self, places: Any) -> Any:
        return self.array[places].astype(np.int64)


def plan_stream(
    settings: StreamSettings,
    lengths: Any,
    *,
    seed: int = 0,
    name: str = "s",
    num_held_out: int = 0,
    start: Mark | None = None,
    tokens_before: int = 0,
    end_epoch: int | None = None,
    segment: int | None = None,
) -> Planned:
    """segment: positions of a segment instead of what the packing asks for."""
    split = Split(seed + 1, len(lengths), num_held_out)
    order = TrainingOrder(Given(lengths), split, seed=seed, name=name)
    tokens = int(order.read(0, 0, order.num_positions)[1].sum())
    return PLANNED[settings.pack](
        settings,
        order,
        segment or segment_documents(settings, order.num_positions, tokens),
        tokens,
        start or Mark(),
        tokens_before,
        end_epoch,
    )


def read_stream(planned: Planned, num_samples: int | None = None) -> tuple[Stream, int]:
    """The stream that a plan's reader opens, and its samples: all, or the first `num_samples`."""
    found = 0
    for sizes, _ in planned.sizes():
        found += len(sizes)
        if num_samples is not None and found >= num_samples:
            break
    num_samples = found if num_samples is None else num_samples
    table = planned.table(num_samples)
    return STREAMS[planned.settings.pack](planned.settings, planned.segments, table), num_samples
