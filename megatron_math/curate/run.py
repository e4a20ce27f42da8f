"""The curate room: read sources, drop duplicates and benchmark problems, keep the reason of each.

Reads: the `curate` section. Writes: <source>.jsonl, drops/<source>.jsonl and stats.json in
20_curate/.
"""

import os
import shutil
import uuid
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_json, write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage
from megatron_math.benchmarks.load import Benchmark
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher
from megatron_math.curate.order import Order, read_order
from megatron_math.curate.passes import curate


def run(road: Road) -> Stage:
    """Curate every source of the road; nothing is done when the stage is up to date.

    Raises UserError for a source or a benchmark that is missing or has an unreadable row.
    """
    order = read_order(road)
    stage, config = order.stage, order.config
    if stage.is_done():
        return stage
    searcher = _open_searcher(order.searched) if config.influence is None else None
    stage.begin()
    for pattern in ("*.jsonl", "drops/*.jsonl", "allowed/*.jsonl", "influence/*.jsonl"):
        for path in stage.folder.glob(pattern):
            path.unlink()  # a source that is no longer asked for must not be read as a result
    outputs = [stage.folder / f"{name}.jsonl" for name in order.files]
    if config.influence is None:
        stats = curate(order, searcher, stage.folder)
    else:
        from megatron_math.curate.influence.run import build_job, make_gradients, seal
        from megatron_math.curate.influence.selection import write_selected

        candidates = _candidates(order)
        job = build_job(order, candidates)
        make_gradients(job, Shard(0, 1))
        stats = read_json(candidates / "stats.json")
        write_selected(job, stage.folder, candidates, stats)
        if (candidates / "allowed").is_dir():
            shutil.copytree(candidates / "allowed", stage.folder / "allowed", dirs_exist_ok=True)
        seal(job, candidates)
        outputs += [job.folder / f"{source.name}.jsonl" for source in job.sources]
    outputs += sorted((stage.folder / "allowed").glob("*.jsonl"))
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
        order.stage.announce()
        from megatron_math.curate.influence.run import build_job, make_gradients

        make_gradients(build_job(order, _candidates(order)), part)
    return order.stage


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
        stats = curate(order, _open_searcher(order.searched), growing)
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
