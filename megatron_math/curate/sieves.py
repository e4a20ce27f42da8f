"""Steps that look at whole records: they drop some, and may write into the `meta` of the others."""

from collections.abc import Container, Sequence
from typing import Any, Protocol

from megatron_math.base.records import Record
from megatron_math.curate.lines import Lines

Drop = dict[str, Any]


class Sieve(Protocol):
    """Decides about records in the order in which they come."""

    def judge(self, records: Sequence[Record]) -> list[Drop | None]:
        """For each record the fields that it gets when it is dropped, or None to keep it; what is
        to be said of it is put into its `meta`."""
        ...


def sift(lines: Lines, sieves: Sequence[Sieve], is_gone: Container[int] = ()) -> dict[int, Drop]:
    """Of the records that are not gone already: row -> what the first sieve that drops it says."""
    if not sieves:
        return {}
    left = [row for row in range(len(lines)) if row not in is_gone]
    records = {row: lines.record(row) for row in left}
    before = {row: dict(record.meta) for row, record in records.items()}
    drops: dict[int, Drop] = {}
    for sieve in sieves:
        judged = zip(left, sieve.judge([records[row] for row in left]), strict=True)
        drops |= {row: drop for row, drop in judged if drop is not None}
        left = [row for row in left if row not in drops]
    for row, record in records.items():
        if record.meta != before[row]:
            lines.set_meta(row, record.meta)
    return drops
