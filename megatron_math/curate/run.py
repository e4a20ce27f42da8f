"""The curate room: read sources, drop duplicates and benchmark problems, keep the reason of each.

Reads: the `curate` section. Writes: <source>.jsonl, drops/<source>.jsonl and stats.json in
20_curate/.
"""

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import (
    atomic_open,
    read_json,
    sha256_json,
    write_json,
)
from megatron_math.base.log import log
from megatron_math.base.records import Record, read_records
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage
from megatron_math.benchmarks.load import Benchmark
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher
from megatron_math.curate.dedup import SeenBefore
from megatron_math.curate.order import Order, read_order


def run(road: Road) -> Stage:
    """Curate every source of the road; nothing is done when the stage is up to date.

    Raises UserError for a source or a benchmark that is missing or has an unreadable row.
    """
    order = read_order(road)
    stage, config = order.stage, order.config
    if stage.is_done():
        return stage
    searchers = _open_searchers(order.searched) if config.influence is None else []
    stage.begin()
    for pattern in ("*.jsonl", "drops/*.jsonl", "influence/*.jsonl"):
        for path in stage.folder.glob(pattern):
            path.unlink()  # a source that is no longer asked for must not be read as a result
    outputs = [stage.folder / f"{name}.jsonl" for name in order.files]
    if config.influence is None:
        stats = _curate(order, searchers, stage.folder)
    else:
        from megatron_math.curate.influence.run import build_job, make_gradients, seal
        from megatron_math.curate.influence.selection import write_selected

        candidates = _candidates(order)
        job = build_job(order, candidates)
        make_gradients(job, Shard(0, 1))
        stats = read_json(candidates / "stats.json")
        write_selected(job, stage.folder, candidates, stats)
        seal(job, candidates)
        outputs += [job.folder / f"{source.name}.jsonl" for source in job.sources]
    stage.finish(stats=stats, outputs=[*outputs, stage.folder / "drops"])
    return stage


def has_parts(road: Road) -> bool:
    """Whether there is anything to share out: the gradients of curate.influence."""
    return road.section("curate", CurateConfig).influence is not None


def run_shard(road: Road, part: Shard) -> Stage:
    """Make one part of the gradients; any number of parts may run at the same time.

    Raises UserError where no influence is asked, which is what there is to share out.
    """
    order = read_order(road)
    if order.config.influence is None:
        raise UserError(
            "--shard shares out the gradients of curate.influence, and the road has no such "
            "section; run curate without --shard"
        )
    if not order.stage.is_done():
        from megatron_math.curate.influence.run import build_job, make_gradients

        make_gradients(build_job(order, _candidates(order)), part)
    return order.stage


def _curate(order: Order, searchers: list[Searcher], folder: Path) -> dict[str, Any]:
    """Write what stays and what goes of every source into `folder`; returns the counts."""
    seen = SeenBefore() if order.config.dedup == "exact" else None
    sources = {
        name: _curate_source(folder, name, paths, seen, searchers)
        for name, paths in order.files.items()
    }
    stats: dict[str, Any] = {
        key: sum(source[key] for source in sources.values()) for key in ("read", "kept", "dropped")
    }
    stats["sources"] = sources
    stats["benchmarks"] = [row for searcher in searchers for row in _describe(searcher, sources)]
    return stats


def _candidates(order: Order) -> Path:
    """The folder of what influence chooses from, made where it is not there.

    Shards that begin at the same time each make it, equal to the byte, and the first one's stays.
    """
    without = order.config.model_copy(update={"influence": None})
    asked = ("source ", "benchmark ")
    key = {
        "config": without.identity(),
        "benchmarks": [benchmark.config.identity() for benchmark, _ in order.searched],
        "inputs": {
            name: item.fingerprint
            for name, item in order.stage.inputs.items()
            if name.startswith(asked)
        },
    }
    folder = order.stage.folder / "influence" / f"candidates-{sha256_json(key)[:12]}"
    if not folder.is_dir():
        growing = folder.with_name(f".{folder.name}.tmp.{uuid.uuid4().hex}")
        stats = _curate(order, _open_searchers(order.searched), growing)
        write_json(growing / "stats.json", stats)
        try:
            os.rename(growing, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(growing)
    return folder


def _open_searchers(searched: list[tuple[Benchmark, Rule]]) -> list[Searcher]:
    """One searcher a rule: a text is split into words once for all benchmarks under it."""
    searchers = [
        Searcher(
            (
                BenchmarkText(benchmark.name, row.id, row.problem)
                for benchmark, its_rule in searched
                if its_rule == rule
                for row in benchmark.rows
            ),
            rule,
        )
        for rule in dict.fromkeys(rule for _, rule in searched)
    ]
    for searcher in searchers:
        for name, number in searcher.num_too_short.items():
            log.warning("%s: %d rows have too few words to be looked for", name, number)
    return searchers


def _curate_source(
    folder: Path,
    name: str,
    paths: list[Path],
    seen: SeenBefore | None,
    searchers: list[Searcher],
) -> dict[str, Any]:
    """Write the kept and the dropped records of one source; returns its counts."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with (
        atomic_open(folder / f"{name}.jsonl") as kept,
        atomic_open(folder / "drops" / f"{name}.jsonl") as dropped,
    ):
        for record in _read(name, paths):
            counts["read"] += 1
            drop = _reason_to_drop(record, seen, searchers)
            if drop is None:
                counts["kept"] += 1
                _write_line(kept, record.to_json())
            else:
                counts["dropped"] += 1
                reasons[drop["reason"]] += 1
                if "benchmark" in drop:
                    reasons[f"benchmark {drop['benchmark']}"] += 1
                _write_line(dropped, record.to_json() | drop)
    assert counts["kept"] + counts["dropped"] == counts["read"], counts
    if not counts["read"]:
        raise UserError(f"curate.sources.{name}: no records in {', '.join(map(str, paths))}")
    log.info(
        "%s: %d read, %d kept, %d dropped %s",
        *(name, counts["read"], counts["kept"], counts["dropped"], dict(reasons) or ""),
    )
    return {key: counts[key] for key in ("read", "kept", "dropped")} | {
        "reasons": dict(sorted(reasons.items()))
    }


def _read(name: str, paths: list[Path]) -> Iterator[Record]:
    for path in paths:
        for record in read_records(path, source=name):
            yield replace(record, source=name)


def _reason_to_drop(
    record: Record, seen: SeenBefore | None, searchers: list[Searcher]
) -> dict[str, Any] | None:
    """The fields that a dropped record gets in addition, or None for a record to keep."""
    first = seen.first(record) if seen else None
    if first:
        return {"reason": "duplicate", "first": {"source": first[0], "id": first[1]}}
    text = record.render("{problem}\n{solution}")
    for searcher in searchers:
        if hit := searcher.find(text):
            return {
                "reason": "contaminated",
                "benchmark": hit.benchmark,
                "row": hit.row,
                "rule": hit.rule,
                "span": list(hit.span),
                "matched": text[slice(*hit.span)],
            }
    return None


def _write_line(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _describe(searcher: Searcher, sources: dict[str, Any]) -> list[dict[str, Any]]:
    """What was looked for under one rule, and how many records each benchmark took."""
    return [
        {
            "benchmark": name,
            "rule": searcher.rule,
            "rows": searcher.num_rows[name],
            "rows too short to look for": searcher.num_too_short[name],
            "dropped": sum(s["reasons"].get(f"benchmark {name}", 0) for s in sources.values()),
        }
        for name in sorted(searcher.num_rows | searcher.num_too_short)
    ]
