"""The curate room: read sources, drop duplicates and benchmark problems, keep the reason of each.

Reads: the `curate` section. Writes: <source>.jsonl, drops/<source>.jsonl and stats.json in
20_curate/.
"""

import glob
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.base.records import Record, read_records
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.benchmarks.load import Benchmark, load_benchmark, load_config
from megatron_math.curate.config import CurateConfig, DecontaminateConfig, SourceConfig
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher
from megatron_math.curate.dedup import SeenBefore

STAGE = "20_curate"


def run(road: Road) -> Stage:
    """Curate every source of the road; nothing is done when the stage is up to date.

    Raises UserError for a source or a benchmark that is missing or has an unreadable row.
    """
    config = road.section("curate", CurateConfig)
    files = {name: _files(road, name, source) for name, source in config.sources.items()}
    searched = _load_benchmarks(road, config.decontaminate)  # an unreadable row stops us here
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {benchmark.name}": benchmark.rows_path for benchmark, _ in searched
    }
    for name, paths in files.items():
        inputs |= {f"source {name} {number}": path for number, path in enumerate(paths)}
    sections: dict[str, Section] = {"curate": config}
    sections |= {f"benchmark {benchmark.name}": benchmark.config for benchmark, _ in searched}
    stage = Stage(road.folder(STAGE), config=sections, inputs=inputs, seed=road.seed)
    if stage.is_done():
        return stage
    searchers = _open_searchers(searched)
    stage.begin()
    for path in [*stage.folder.glob("*.jsonl"), *stage.folder.glob("drops/*.jsonl")]:
        path.unlink()  # a source that is no longer asked for must not be read as a result
    seen = SeenBefore() if config.dedup == "exact" else None
    sources = {
        name: _curate_source(stage.folder, name, paths, seen, searchers)
        for name, paths in files.items()
    }
    stats: dict[str, Any] = {
        key: sum(source[key] for source in sources.values()) for key in ("read", "kept", "dropped")
    }
    stats["sources"] = sources
    stats["benchmarks"] = [row for searcher in searchers for row in _describe(searcher, sources)]
    outputs = [stage.folder / f"{name}.jsonl" for name in files]
    stage.finish(stats=stats, outputs=[*outputs, stage.folder / "drops"])
    return stage


def _files(road: Road, name: str, source: SourceConfig) -> list[Path]:
    """The files of a source, in order; at least one."""
    if source.stage is not None and source.file is not None:
        path = road.done(source.stage).path / source.file
        if not path.is_file():
            raise UserError(f"curate.sources.{name}: {path} does not exist in that stage")
        return [path]
    patterns = [source.path] if isinstance(source.path, str) else source.path or []
    paths = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True)) or [pattern]
        paths += [Path(path) for path in found]
    for path in paths:
        if not path.is_file():
            raise UserError(f"curate.sources.{name}: there is no file {path}; check the path")
    if not paths:
        raise UserError(f"curate.sources.{name}: an empty list of paths; name at least one file")
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
