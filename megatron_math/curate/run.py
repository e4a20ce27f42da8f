"""The curate room: read sources, drop duplicates and benchmark problems, keep the reason of each.

Reads: the `curate` section. Writes: <source>.jsonl, drops/<source>.jsonl and stats.json in
20_curate/.
"""

import glob
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import (
    atomic_open,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from megatron_math.base.log import log
from megatron_math.base.records import Record, read_records
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage, StageInput, finished_stage
from megatron_math.benchmarks.load import Benchmark, load_benchmark, load_config
from megatron_math.curate.config import CurateConfig, DecontaminateConfig, SourceConfig
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher
from megatron_math.curate.dedup import SeenBefore

if TYPE_CHECKING:
    from megatron_math.curate.influence.run import Job

STAGE = "20_curate"


@dataclass(frozen=True)
class Order:
    """What is asked: sections and files are there, benchmarks are read."""

    road: Road
    config: CurateConfig
    stage: Stage
    files: dict[str, list[Path]]
    searched: list[tuple[Benchmark, Rule]]
    targets: dict[str, list[Path]]
    warm_up: Path | None
    """The 50_train of the warm-up road, where influence is asked."""


def run(road: Road) -> Stage:
    """Curate every source of the road; nothing is done when the stage is up to date.

    Raises UserError for a source or a benchmark that is missing or has an unreadable row.
    """
    order = _read_order(road)
    stage, config = order.stage, order.config
    if stage.is_done():
        return stage
    stage.begin()
    for path in [*stage.folder.glob("*.jsonl"), *stage.folder.glob("drops/*.jsonl")]:
        path.unlink()  # a source that is no longer asked for must not be read as a result
    outputs = [stage.folder / f"{name}.jsonl" for name in order.files]
    if config.influence is None:
        stats = _curate(order, stage.folder)
    else:
        from megatron_math.curate.influence.run import make_gradients, seal
        from megatron_math.curate.influence.selection import write_selected

        candidates = _candidates(order)
        job = _job(order, candidates)
        make_gradients(job, Shard(0, 1))
        stats = read_json(candidates / "stats.json")
        write_selected(job, stage.folder, candidates, stats)
        seal(job)
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
    order = _read_order(road)
    if order.config.influence is None:
        raise UserError(
            "--shard shares out the gradients of curate.influence, and the road has no such "
            "section; run curate without --shard"
        )
    if not order.stage.is_done():
        from megatron_math.curate.influence.run import make_gradients

        make_gradients(_job(order, _candidates(order)), part)
    return order.stage


def run_merge(road: Road) -> Stage:
    """Choose, once the parts are there; what of them is missing is made here."""
    return run(road)


def _read_order(road: Road) -> Order:
    config = road.section("curate", CurateConfig)
    files = {
        name: _files(road, f"sources.{name}", source) for name, source in config.sources.items()
    }
    searched = _load_benchmarks(road, config.decontaminate)  # an unreadable row stops us here
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {benchmark.name}": benchmark.rows_path for benchmark, _ in searched
    }
    for name, paths in files.items():
        inputs |= {f"source {name} {number}": path for number, path in enumerate(paths)}
    targets: dict[str, list[Path]] = {}
    warm_up = None
    if config.influence is not None:
        for name, target in config.influence.targets.items():
            targets[name] = _files(road, f"influence.targets.{name}", target)
            inputs |= {f"target {name} {n}": path for n, path in enumerate(targets[name])}
        warm_up = Path(os.path.normpath(road.root / config.influence.run)) / "50_train"
        inputs["warm-up"] = finished_stage(warm_up)
    sections: dict[str, Section] = {"curate": config}
    sections |= {f"benchmark {benchmark.name}": benchmark.config for benchmark, _ in searched}
    stage = Stage(road.folder(STAGE), config=sections, inputs=inputs, seed=road.seed)
    return Order(road, config, stage, files, searched, targets, warm_up)


def _curate(order: Order, folder: Path) -> dict[str, Any]:
    """Write what stays and what goes of every source into `folder`; returns the counts."""
    searchers = _open_searchers(order.searched)
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
        growing = folder.with_name(f".{folder.name}.tmp.{os.getpid()}")
        shutil.rmtree(growing, ignore_errors=True)
        write_json(growing / "stats.json", _curate(order, growing))
        try:
            os.rename(growing, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(growing)
    return folder


def _job(order: Order, candidates: Path) -> "Job":
    """What is scored by what, counted and digested."""
    from megatron_math.curate.influence.blocks import Collection
    from megatron_math.curate.influence.run import Job
    from megatron_math.curate.influence.warm_up import references

    config = order.config.influence
    assert config is not None
    assert order.warm_up is not None
    counts = read_json(candidates / "stats.json")["sources"]
    sources = [
        Collection("source", name, [path], sha256_file(path), counts[name]["kept"])
        for name in order.files
        if config.kept(name, counts[name]["kept"]) is not None
        for path in [candidates / f"{name}.jsonl"]
    ]
    targets = [
        Collection(
            "target",
            name,
            paths,
            sha256_json([sha256_file(path) for path in paths]),
            sum(1 for path in paths for _ in read_records(path)),
        )
        for name, paths in order.targets.items()
    ]
    empty = [one.name for one in (*sources, *targets) if not one.num_records]
    if empty:
        raise UserError(f"curate.influence: no records in {', '.join(empty)}")
    return Job(
        order.stage.folder / "influence",
        config,
        order.road.seed,
        references(order.warm_up, config.checkpoints),
        sources,
        targets,
    )


def _files(road: Road, name: str, source: SourceConfig) -> list[Path]:
    """The files of a source, in order; at least one."""
    if source.stage is not None and source.file is not None:
        path = road.done(source.stage).path / source.file
        if not path.is_file():
            raise UserError(f"curate.{name}: {path} does not exist in that stage")
        return [path]
    patterns = [source.path] if isinstance(source.path, str) else source.path or []
    paths = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True)) or [pattern]
        paths += [Path(path) for path in found]
    for path in paths:
        if not path.is_file():
            raise UserError(f"curate.{name}: there is no file {path}; check the path")
    if not paths:
        raise UserError(f"curate.{name}: an empty list of paths; name at least one file")
    return paths


def _load_benchmarks(
    road: Road, config: DecontaminateConfig | None
) -> list[tuple[Benchmark, Rule]]:
    """Every benchmark that is looked for, with all its rows and its rule."""
    searched: list[tuple[Benchmark, Rule]] = []
    for choice in config.choices() if config else []:
        rows = choice.rows
        if choice.stage is not None:
            rows = road.done(choice.stage).path / load_config(choice.name).rows
        assert config is not None
        assert choice.rule is not None
        searched.append((load_benchmark(choice.name, rows, config.data), choice.rule))
    names = [benchmark.name for benchmark, _ in searched]
    if len(set(names)) != len(names):
        raise UserError(f"curate.decontaminate.benchmarks names one twice: {', '.join(names)}")
    return searched


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
