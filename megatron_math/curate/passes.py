"""The passes over the records: what stays and what goes, batch by batch, each with its reason.

Without near-duplicates one pass does all. With them the first pass drops equal addresses and texts
and takes signatures; what is left lies in `.near_duplicates/` until the second pass, which drops
near-duplicates and benchmark problems.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.base.records import Record, read_records
from megatron_math.curate.contamination import Contamination
from megatron_math.curate.decontaminate import Searcher
from megatron_math.curate.dedup import SameText, SameUrl, Sieve
from megatron_math.curate.filters import Filters
from megatron_math.curate.marks import open_marks
from megatron_math.curate.near_duplicates import NearDuplicates, Verdicts
from megatron_math.curate.order import Order
from megatron_math.curate.recall.run import recall

BATCH_CHARACTERS = 1 << 23
BATCH_RECORDS = 8192
Drop = dict[str, Any]


def curate(order: Order, searcher: Searcher | None, folder: Path) -> dict[str, Any]:
    """Write what stays and what goes of every source into `folder`; returns the counts."""
    config = order.config
    recalled = recall(order) if config.recall is not None else None
    repeats: list[Sieve] = [recalled] if recalled is not None else []
    if config.filters is not None:
        repeats.append(Filters(config.filters))
    if config.same_url == "drop":
        repeats.append(SameUrl())
    if config.dedup == "exact":
        repeats.append(SameText())
    stats: dict[str, Any] = {"read": 0, "kept": 0, "dropped": 0}
    if recalled is not None:
        stats["recall"] = recalled.report()
    with ExitStack() as files:
        contamination = None
        if searcher is not None:
            allowed_hits = (
                files.enter_context(atomic_open(folder / "allowed" / "hits.jsonl"))
                if order.allowed.entries
                else None
            )
            contamination = Contamination(searcher, order.allowed, allowed_hits)
        last: list[Sieve] = [contamination] if contamination else []
        marks = open_marks(order, files)
        last += marks
        if config.near_duplicates is None:
            sources = {
                name: _write_source(folder, name, batches(_read(name, paths)), [*repeats, *last])
                for name, paths in order.files.items()
            }
        else:
            sources, stats["near_duplicates"] = _in_two_passes(order, repeats, last, folder)
    for mark in marks:
        mark.finish(folder, sources)
    for name, counts in sources.items():
        log.info(
            "%s: %d read, %d kept, %d dropped %s",
            *(name, counts["read"], counts["kept"], counts["dropped"], counts["reasons"] or ""),
        )
        for key in ("read", "kept", "dropped"):
            stats[key] += counts[key]
    stats["sources"] = sources
    stats["benchmarks"] = contamination.report() if contamination else []
    if contamination and order.allowed.entries:
        stats["allowed"] = contamination.allow_report()
    return stats


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in their order, as many at a time as fit the limits."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += (
            len(record.text or "") + len(record.problem or "") + len(record.solution or "")
        )
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_RECORDS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def sift(records: list[Record], sieves: Sequence[Sieve]) -> list[Drop | None]:
    """For each record what the first sieve that drops it says, or None."""
    drops: list[Drop | None] = [None] * len(records)
    left = list(range(len(records)))
    for sieve in sieves:
        for place, drop in zip(left, sieve.judge([records[i] for i in left]), strict=True):
            drops[place] = drop
        left = [place for place in left if drops[place] is None]
    return drops


class _Nearly:
    """Drops what `verdicts` say, of the records in the order in which they were taken."""

    def __init__(self, near: NearDuplicates, verdicts: Verdicts) -> None:
        self._near, self._verdicts, self._at = near, verdicts, 0

    def judge(self, records: Sequence[Record]) -> list[Drop | None]:
        numbers = range(self._at, self._at + len(records))
        self._at += len(records)
        return [self._drop(number) for number in numbers]

    def _drop(self, number: int) -> Drop | None:
        verdicts = self._verdicts
        survivor = int(verdicts.survivors[number])
        if survivor == number:
            return None
        drop: Drop = {
            "reason": "near-duplicate",
            "survivor": self._name(survivor),
            "jaccard": round(float(verdicts.jaccard[number]), 4),
        }
        through = int(verdicts.through[number])
        if through != survivor:
            link = round(float(verdicts.link[number]), 4)
            drop["through"] = self._name(through) | {"jaccard": link}
        return drop

    def _name(self, number: int) -> dict[str, Any]:
        record = self._near.record(number)
        return {"source": record.source, "id": record.id}


def _in_two_passes(
    order: Order, repeats: list[Sieve], last: list[Sieve], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert order.config.near_duplicates is not None
    kept = folder / ".near_duplicates"
    shutil.rmtree(kept, ignore_errors=True)
    near = NearDuplicates(order.config.near_duplicates, kept)
    try:
        first: dict[str, Any] = {}
        for name, paths in order.files.items():
            near.begin_source(name)
            with open(kept / f"{name}.drops", "w", encoding="utf-8") as dropped:
                first[name] = _sift_source(
                    name, batches(_read(name, paths)), repeats, near.add, dropped
                )
        verdicts = near.settle()
        sieves: list[Sieve] = [_Nearly(near, verdicts), *last]
        sources = {
            name: _write_source(
                folder,
                name,
                batches(_read(name, [kept / f"{name}.jsonl"])),
                sieves,
                earlier=(kept / f"{name}.drops", counts),
            )
            for name, counts in first.items()
        }
    finally:
        near.close()
        shutil.rmtree(kept, ignore_errors=True)
    return sources, verdicts.stats


def _write_source(
    folder: Path,
    name: str,
    records: Iterable[list[Record]],
    sieves: Sequence[Sieve],
    earlier: tuple[Path, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the kept and the dropped records of one source; returns its counts.

    earlier: what an earlier pass dropped, and its counts.
    """
    with (
        atomic_open(folder / f"{name}.jsonl") as kept,
        atomic_open(folder / "drops" / f"{name}.jsonl") as dropped,
    ):
        if earlier is not None:
            with open(earlier[0], encoding="utf-8") as file:
                shutil.copyfileobj(file, dropped)

        def keep(batch: Sequence[Record]) -> None:
            for record in batch:
                _write_line(kept, record.to_json())

        counts = _sift_source(name, records, sieves, keep, dropped, is_empty_right=bool(earlier))
    if earlier is not None:
        before = earlier[1]
        assert counts["read"] == before["kept"], (counts, before)
        reasons = Counter(before["reasons"]) + Counter(counts["reasons"])
        counts = {
            "read": before["read"],
            "kept": counts["kept"],
            "dropped": before["dropped"] + counts["dropped"],
            "reasons": dict(sorted(reasons.items())),
        }
    return counts


def _sift_source(
    name: str,
    records: Iterable[list[Record]],
    sieves: Sequence[Sieve],
    keep: Any,
    dropped: IO[str],
    *,
    is_empty_right: bool = False,
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for batch in records:
        drops = sift(batch, sieves)
        counts["read"] += len(batch)
        stay = [record for record, drop in zip(batch, drops, strict=True) if drop is None]
        counts["kept"] += len(stay)
        keep(stay)
        for record, drop in zip(batch, drops, strict=True):
            if drop is None:
                continue
            counts["dropped"] += 1
            reasons[drop["reason"]] += 1
            found = {hit["benchmark"] for hit in drop.get("hits", ())}
            reasons.update(f"benchmark {benchmark}" for benchmark in found)
            _write_line(dropped, record.to_json() | drop)
    assert counts["kept"] + counts["dropped"] == counts["read"], counts
    if not counts["read"] and not is_empty_right:
        raise UserError(f"curate.sources.{name}: there are no records in its files")
    return {key: counts[key] for key in ("read", "kept", "dropped")} | {
        "reasons": dict(sorted(reasons.items()))
    }


def _read(name: str, paths: list[Path]) -> Iterator[Record]:
    for path in paths:
        for record in read_records(path, source=name):
            yield record if record.source == name else replace(record, source=name)


def _write_line(file: IO[str], row: dict[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False)
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which stays as it was escaped
            line = json.dumps(row)
    file.write(line + "\n")
