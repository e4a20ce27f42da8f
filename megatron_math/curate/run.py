"""The curate room: read sources, drop duplicates and benchmark problems, keep the reason of each.

Reads: the `curate` section. Writes: <source>.jsonl, drops/<source>.jsonl and stats.json in
20_curate/.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_json, write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage
from megatron_math.benchmarks.load import Benchmark
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher
from megatron_math.curate.examine import Examined, Examiner
from megatron_math.curate.order import SHARDS, STAGE, Order, read_order, shard_stage
from megatron_math.curate.parts import pieces_of, read_shards, shards_in, write_piece
from megatron_math.curate.passes import curate


def run(road: Road) -> Stage:
    """Curate every source of the road; nothing is done when the stage is up to date.

    Raises UserError for a source or a benchmark that is missing or has an unreadable row.
    """
    order = read_order(road)
    if order.stage.is_done():
        return order.stage
    if order.config.influence is None:
        searcher = _open_searcher(order.searched)
        _write(order, lambda folder: curate(order, searcher, folder, _files(order, searcher)))
    else:
        _write(order, lambda folder: _choose(order, folder))
    return order.stage


def has_parts(road: Road) -> bool:
    """Every road's: what is asked of each record, or the gradients of curate.influence."""
    return True


def run_shard(road: Road, part: Shard) -> Stage:
    """Do one part; any number of parts may run at the same time.

    With influence a part of the gradients, else what is asked of each record of a part of the
    lines.
    """
    if road.section("curate", CurateConfig).influence is not None:
        order = read_order(road)
        if not order.stage.is_done():
            order.stage.announce()
            from megatron_math.curate.influence.run import build_job, make_gradients

            make_gradients(build_job(order, _candidates(order)), part)
        return order.stage
    if (road.folder(STAGE) / "DONE").is_file() and (order := read_order(road)).stage.is_done():
        return order.stage  # merged already
    order = read_order(road, part)
    stage = order.stage
    if stage.is_done():
        return stage
    is_begun = stage.is_started()
    stage.announce()
    if not is_begun:
        shutil.rmtree(stage.folder, ignore_errors=True)  # pieces of another configuration
    stage.begin()
    examiner = Examiner(order.config, _open_searcher(order.searched))
    outputs = []
    for piece in pieces_of(order.files, part.count)[part.index]:
        outputs += write_piece(piece, stage.folder, examiner)
    stage.finish(stats={"files": len(outputs)}, outputs=outputs)
    return stage


def run_merge(road: Road) -> Stage:
    """End the stage when all its shards are there: the same bytes as `run` writes.

    Raises UserError where a shard is missing or of another configuration.
    """
    order = read_order(road)
    stage = order.stage
    if stage.is_done() or order.config.influence is not None:
        return run(road)
    folders = []
    for part in shards_in(stage.folder / SHARDS):
        shard = shard_stage(road, order.config, order.files, order.searched, part)
        if not shard.is_done():
            why = "; ".join(shard.changes()) or "it is not finished"
            raise UserError(f"{shard.folder} cannot be merged: {why}; run this shard again")
        folders.append(shard.folder)
    searcher, examined = _open_searcher(order.searched), read_shards(order.files, folders)
    _write(order, lambda folder: curate(order, searcher, folder, examined))
    return stage


def _files(order: Order, searcher: Searcher | None) -> Callable[[str], Iterator[Examined]]:
    """All records of a source, by its name, out of its files."""
    examiner = Examiner(order.config, searcher)
    return lambda name: examiner.examine_files(name, order.files[name])


def _write(order: Order, work: Callable[[Path], dict[str, Any]]) -> None:
    """The stage from its begin to its end; work(folder) writes what stays and what goes, and
    returns the stats."""
    stage = order.stage
    stage.begin()
    for pattern in ("*.jsonl", "drops/*.jsonl", "allowed/*.jsonl", "influence/*.jsonl"):
        for path in stage.folder.glob(pattern):
            path.unlink()  # a source that is no longer asked for must not be read as a result
    stats = work(stage.folder)
    outputs = [stage.folder / f"{name}.jsonl" for name in order.files]
    for pattern in ("influence/*.jsonl", "allowed/*.jsonl"):
        outputs += sorted(stage.folder.glob(pattern))
    stage.finish(stats=stats, outputs=[*outputs, stage.folder / "drops"])
    shutil.rmtree(stage.folder / SHARDS, ignore_errors=True)


def _choose(order: Order, folder: Path) -> dict[str, Any]:
    """By influence, of what the other steps leave."""
    from megatron_math.curate.influence.run import build_job, make_gradients, seal
    from megatron_math.curate.influence.selection import write_selected

    candidates = _candidates(order)
    job = build_job(order, candidates)
    make_gradients(job, Shard(0, 1))
    stats = read_json(candidates / "stats.json")
    write_selected(job, folder, candidates, stats)
    if (candidates / "allowed").is_dir():
        shutil.copytree(candidates / "allowed", folder / "allowed", dirs_exist_ok=True)
    seal(job, candidates)
    return stats


def _candidates(order: Order) -> Path:
    """The folder of what influence chooses from, made where it is not there.

    Shards that begin at the same time each make it, equal to the byte, and the first one's stays.
    """
    without = order.config.model_copy(update={"influence": None})
    asked = ("source ", "benchmark ", "allow-list", "recall ", "label ", "quality ")
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
        searcher = _open_searcher(order.searched)
        stats = curate(order, searcher, growing, _files(order, searcher))
        write_json(growing / "stats.json", stats)
        try:
            os.rename(growing, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(growing)
    return folder


def _open_searcher(searched: list[tuple[Benchmark, tuple[Rule, ...]]]) -> Searcher | None:
    """One searcher for all: a text is split into words once for all benchmarks."""
    if not searched:
        return None
    searcher = Searcher(
        BenchmarkText(benchmark.name, row.id, row.problem, rules)
        for benchmark, rules in searched
        for row in benchmark.rows
    )
    for name, number in searcher.num_too_short.items():
        log.warning("%s: %d rows have too few words for any of the rules", name, number)
    return searcher
