"""Ranks that make every step longer, told from what of their time is their own.

What can be told depends on the layout. `data` (waiting for the loader) and `probe` (a fixed small
computation on a GPU, for one that is slower than the others) are each rank's own in every layout.
`forward_backward` is so only where each rank holds a whole model and `parallel.overlap` is off:
there the wait for the others lies in `reduce`, behind it. With overlap the forward pass waits for
weights that a slow rank has not sent (seen: 355 ms of 41 ms on the victim); with tensor, pipeline,
context or expert parallelism every layer waits for its peers. There only data and the probe tell
which rank is slow, and one that is slow by its own work (an uneven pipeline stage, long documents)
is not seen.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_math.watch.beats import Beat, describe

STEP = "step"
"""The kind in `Beat.pace` that is the whole step, waits included."""
PROBE = "probe"
COUNT = "count"
"""The kind that is no time: how many comparisons this rank has had figures for."""
IN_A_ROW = 2
"""Comparisons that must agree: one may be a moment in which the machine did something else."""


@dataclass(frozen=True)
class Slow:
    """One rank that is slower than the usual one, in one kind of its time."""

    rank: int
    kind: str
    seconds: float
    usual: float


def slow_ranks(beats: Iterable[Beat], share: float) -> list[Slow]:
    """Ranks whose own time is longer than that of the usual rank by `share` of a step.

    Of a probe, which is no part of the step as a whole: by `share` of the usual probe. The usual
    rank is the lower median, so that of two ranks it is the faster one.
    """
    paces = {beat.rank: beat.pace for beat in beats if beat.pace and not beat.is_over}
    if len(paces) < 2:
        return []
    step = statistics.median_low([pace[STEP] for pace in paces.values()])
    found = []
    for kind in sorted({kind for pace in paces.values() for kind in pace} - {STEP, COUNT}):
        own = {rank: pace[kind] for rank, pace in paces.items() if kind in pace}
        usual = statistics.median_low(list(own.values()))
        excess = share * (usual if kind == PROBE else step)
        found += [Slow(rank, kind, x, usual) for rank, x in own.items() if x > usual + excess]
    return found


class Stragglers:
    """Tells of each slow rank once, when it was slow in several comparisons in a row."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._counts: dict[tuple[int, str], int] = {}
        self._seen = 0.0

    def compare(self, beats: Sequence[Beat]) -> list[str] | None:
        """Messages; None while a rank has no new figures since the last ones."""
        seen = min((beat.pace.get(COUNT, 0.0) for beat in beats if not beat.is_over), default=0.0)
        if seen <= self._seen:
            return None
        self._seen = seen
        slow = {(one.rank, one.kind): one for one in slow_ranks(beats, self._share)}
        self._counts = {key: self._counts.get(key, 0) + 1 for key in slow}
        by_rank = {beat.rank: beat for beat in beats}
        return [
            f"{describe(by_rank[rank])}: {kind} takes {1e3 * slow[rank, kind].seconds:.1f} ms, "
            f"and {1e3 * slow[rank, kind].usual:.1f} ms on the usual rank"
            for (rank, kind), count in self._counts.items()
            if count == IN_A_ROW
        ]
