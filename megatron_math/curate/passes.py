"""The passes over the records: what stays and what goes, in their order, each with its reason.

What is asked of each record alone has been found out (examine.py). Without near-duplicates one pass
does the rest: recall, filters, equal addresses and texts, benchmark problems, labels and quality.
With them the first pass ends behind equal texts and takes signatures; the second begins with
near-duplicates. Between them `.near_duplicates/` holds the drops, the signatures, and the lines of
packed files.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.contamination import Contamination
from megatron_math.curate.decontaminate import Searcher
from megatron_math.curate.dedup import Names, Repeats, normal_url
from megatron_math.curate.examine import Examined
from megatron_math.curate.filters import Filters
from megatron_math.curate.lines import Lines, json_line
from megatron_math.curate.marks import open_marks
from megatron_math.curate.near_duplicates import NearDuplicates, Verdicts
from megatron_math.curate.order import Order
from megatron_math.curate.parked import Parked
from megatron_math.curate.recall.run import recall
from megatron_math.curate.sieves import Drop, Sieve, sift
from megatron_math.native.texts import Int64Array


def curate(
    order: Order,
    searcher: Searcher | None,
    folder: Path,
    examined: Callable[[str], Iterable[Examined]],
) -> dict[str, Any]:
    """Write what stays and what goes of every source into `folder`; returns the counts.

    examined: all records of a source, in their order. Raises UserError where no source has any.
    """
    config = order.config
    stats: dict[str, Any] = {"read": 0, "kept": 0, "dropped": 0}
    first: list[Sieve] = []
    if config.recall is not None:
        first.append(recalled := recall(order))
        stats["recall"] = recalled.report()
    if config.filters is not None:
        first.append(Filters(config.filters))
    with ExitStack() as files:
        contamination = None
        if searcher is not None:
            allowed_hits = (
                files.enter_context(atomic_open(folder / "allowed" / "hits.jsonl"))
                if order.allowed.entries
                else None
            )
            contamination = Contamination(searcher, order.allowed, allowed_hits)
        marks = open_marks(order, files)
        repeats = _RepeatedRecords(config)
        if config.near_duplicates is None:
            sources = {}
            for name in order.files:
                with _outputs(folder, name) as output:
                    for found in examined(name):
                        drops = sift(found.lines, first)
                        drops |= repeats.judge(found, drops)
                        if contamination is not None:
                            drops |= contamination.judge(found.lines, found.hits, drops)
                        drops |= sift(found.lines, marks, drops)
                        output.write(found.lines, drops)
                sources[name] = output.counts(order.files[name])
        else:
            sources, stats["near_duplicates"] = _in_two_passes(
                order, first, repeats, contamination, marks, folder, examined
            )
    _check_sources(order.files, sources)
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
    stats["benchmarks without rows"] = order.absent
    if contamination and order.allowed.entries:
        stats["allowed"] = contamination.allow_report()
    return stats


class _RepeatedRecords:
    """Drops equal addresses, then equal texts, of those that came before in any source."""

    def __init__(self, config: CurateConfig) -> None:
        self._urls = Repeats() if config.same_url == "drop" else None
        self._texts = Repeats() if config.dedup == "exact" else None
        self._names = Names()

    def judge(self, found: Examined, is_gone: Container[int]) -> dict[int, Drop]:
        """Of the records that are not gone already: row -> the fields of the dropped record."""
        lines, begin = found.lines, self._names.count
        drops: dict[int, Drop] = {}
        if self._urls is None and self._texts is None:
            return drops
        self._names.add(lines.source, lines.id_text, lines.id_offsets)
        if self._urls is not None:
            rows = [row for row in np.flatnonzero(found.has_url).tolist() if row not in is_gone]
            for row, first in self._urls.first(found.url_keys, rows, begin).items():
                url = normal_url(lines.record(row).meta["url"])
                drops[row] = self._drop("same url", first) | {"url": url}
        if self._texts is not None:
            gone = is_gone, drops
            rows = [row for row in range(len(lines)) if not any(row in some for some in gone)]
            for row, first in self._texts.first(found.text_keys, rows, begin).items():
                drops[row] = self._drop("duplicate", first)
        return drops

    def _drop(self, reason: str, first: int) -> Drop:
        return {"reason": reason, "first": self._names.name(first)}


def _in_two_passes(
    order: Order,
    first: Sequence[Sieve],
    repeats: _RepeatedRecords,
    contamination: Contamination | None,
    marks: Sequence[Sieve],
    folder: Path,
    examined: Callable[[str], Iterable[Examined]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert order.config.near_duplicates is not None
    between = folder / ".near_duplicates"
    shutil.rmtree(between, ignore_errors=True)
    between.mkdir(parents=True)
    parked = Parked(between)
    near = NearDuplicates(order.config.near_duplicates, between, parked.texts)
    try:
        outputs: dict[str, _Output] = {}
        for name in order.files:
            near.begin_source()
            with open(between / f"{name}.drops", "wb") as dropped:
                outputs[name] = _Output(None, dropped)
                for found in examined(name):
                    drops = sift(found.lines, first)
                    drops |= repeats.judge(found, drops)
                    rows = outputs[name].write(found.lines, drops)
                    parked.add(found, rows)
                    near.add(found.text_keys[rows], found.bands[rows], found.num_words[rows])
        verdicts = near.settle()
        sources = {}
        for name, earlier in outputs.items():
            with _outputs(folder, name) as output:
                with open(between / f"{name}.drops", "rb") as file:
                    shutil.copyfileobj(file, output.dropped)
                for begin, lines, hits in parked.blocks(name):
                    drops = _near_drops(begin, len(lines), verdicts, parked)
                    if contamination is not None:
                        drops |= contamination.judge(lines, hits, drops)
                    drops |= sift(lines, marks, drops)
                    output.write(lines, drops)
            sources[name] = output.counts_after(earlier, order.files[name])
    finally:
        near.close()
        shutil.rmtree(between, ignore_errors=True)
    return sources, verdicts.stats


def _near_drops(begin: int, count: int, verdicts: Verdicts, parked: Parked) -> dict[int, Drop]:
    """What goes of the `count` records from number `begin` on: row -> fields."""
    drops = {}
    survivors = verdicts.survivors[begin : begin + count]
    for row in np.flatnonzero(survivors != np.arange(begin, begin + count)).tolist():
        number, survivor = begin + row, int(survivors[row])
        drop: Drop = {
            "reason": "near-duplicate",
            "survivor": parked.name(survivor),
            "jaccard": round(float(verdicts.jaccard[number]), 4),
        }
        through = int(verdicts.through[number])
        if through != survivor:
            link = round(float(verdicts.link[number]), 4)
            drop["through"] = parked.name(through) | {"jaccard": link}
        drops[row] = drop
    return drops


class _Output:
    """Writes records of one source where they belong, and counts them. kept: None: nowhere."""

    def __init__(self, kept: IO[bytes] | None, dropped: IO[bytes]) -> None:
        self.dropped = dropped
        self._kept = kept
        self._read = self._num_kept = 0
        self._reasons: Counter[str] = Counter()
        self._paths: set[Path] = set()  # files with records

    def write(self, lines: Lines, drops: dict[int, Drop]) -> Int64Array:
        """drops: row -> fields of the dropped record. Returns the rows that stay."""
        stays = np.ones(len(lines), bool)
        stays[list(drops)] = False
        rows = np.flatnonzero(stays)
        if self._kept is not None:
            lines.write(self._kept, rows)
        for row in sorted(drops):
            drop = drops[row]
            self._reasons[drop["reason"]] += 1
            found = {hit["benchmark"] for hit in drop.get("hits", ())}
            self._reasons.update(f"benchmark {benchmark}" for benchmark in found)
            self.dropped.write(json_line(lines.record(row).to_json() | drop))
        self._read += len(lines)
        self._num_kept += len(rows)
        if len(lines):
            self._paths.add(lines.path)
        return rows

    def counts(self, paths: list[Path]) -> dict[str, Any]:
        """paths: the source's files."""
        counts: dict[str, Any] = {
            "read": self._read,
            "kept": self._num_kept,
            "dropped": self._read - self._num_kept,
            "reasons": dict(sorted(self._reasons.items())),
        }
        if num_empty := sum(path not in self._paths for path in paths):
            counts["empty_files"] = num_empty
        return counts

    def counts_after(self, earlier: "_Output", paths: list[Path]) -> dict[str, Any]:
        """Of both passes."""
        before, after = earlier.counts(paths), self.counts(paths)
        assert after["read"] == before["kept"], (before, after)
        return before | {
            "kept": after["kept"],
            "dropped": before["dropped"] + after["dropped"],
            "reasons": dict(sorted((self._reasons + earlier._reasons).items())),
        }


@contextmanager
def _outputs(folder: Path, name: str) -> Iterator[_Output]:
    with (
        atomic_open(folder / f"{name}.jsonl", "wb") as kept,
        atomic_open(folder / "drops" / f"{name}.jsonl", "wb") as dropped,
    ):
        yield _Output(kept, dropped)


def _check_sources(files: dict[str, list[Path]], sources: dict[str, dict[str, Any]]) -> None:
    """An empty file is usual among many, and said; an error where there is nothing else."""
    empty = [name for name, counts in sources.items() if not counts["read"]]
    if len(empty) == len(sources):
        paths = [str(path) for name in empty for path in files[name]]
        raise UserError(
            f"curate.sources: there are no records in any file of {', '.join(empty)} "
            f"({', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''})"
        )
    for name, counts in sources.items():
        if num_empty := counts.get("empty_files"):
            said = (name, num_empty, len(files[name]))
            log.warning("curate.sources.%s: %d of %d files have no records", *said)
