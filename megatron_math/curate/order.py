"""What the room is asked: sources, benchmarks, targets and the warm-up, found and read."""

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file, sha256_json
from megatron_math.base.log import log
from megatron_math.base.records import read_records
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage, StageInput, finished_stage
from megatron_math.benchmarks.load import Benchmark, has_rows, load_benchmark, load_config
from megatron_math.curate.allow import AllowList, read_allow_list
from megatron_math.curate.config import CurateConfig, DecontaminateConfig, SourceConfig
from megatron_math.curate.decontaminate import Rule
from megatron_math.curate.influence.blocks import Collection
from megatron_math.curate.influence.warm_up import Reference, references
from megatron_math.engine.config import EngineConfig
from megatron_math.engine.open import fingerprint_of_model

STAGE = "20_curate"
SHARDS = "shards"


@dataclass(frozen=True)
class Order:
    """What is asked: sections and files are there, benchmarks are read.

    examples: files that steps learn from, by "recall seed", "recall general", "quality good" and
    "quality bad". targets, references: of influence, where it is asked and the stage is not up to
    date, which needs neither. absent: benchmarks that `all` means and whose rows are not in the
    data folder.
    """

    road: Road
    config: CurateConfig
    stage: Stage
    files: dict[str, list[Path]]
    searched: list[tuple[Benchmark, tuple[Rule, ...]]]
    allowed: AllowList
    targets: list[Collection]
    references: list[Reference]
    examples: dict[str, list[Path]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def read_order(road: Road, part: Shard | None = None) -> Order:
    """Resolve files, read benchmarks, digest inputs. UserError for what is missing.

    part: the stage is that of a shard, which reads no more than it needs.
    """
    config = road.section("curate", CurateConfig)
    files = {
        name: _files(road, f"sources.{name}", source) for name, source in config.sources.items()
    }
    absent = _absent(config.decontaminate)
    searched = _load_benchmarks(road, config.decontaminate, absent)  # unreadable rows stop us here
    if part is not None:
        stage = shard_stage(road, config, files, searched, part)
        return Order(road, config, stage, files, searched, AllowList(), [], [], absent=absent)
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {benchmark.name}": benchmark.rows_path for benchmark, _ in searched
    }
    allowed = AllowList()
    if config.decontaminate is not None and config.decontaminate.allow is not None:
        rows = {benchmark.name: {row.id for row in benchmark.rows} for benchmark, _ in searched}
        allowed = read_allow_list(config.decontaminate.allow, rows, files)
        inputs["allow-list"] = config.decontaminate.allow
    for name, paths in files.items():
        inputs |= {f"source {name} {number}": path for number, path in enumerate(paths)}
    examples = _examples(road, config)
    for name, paths in examples.items():
        inputs |= {f"{name} {number}": path for number, path in enumerate(paths)}
    inputs |= _consulted(config)
    influence, target_files = config.influence, {}
    if influence is not None:
        for name, target in influence.targets.items():
            target_files[name] = _files(road, f"influence.targets.{name}", target)
            inputs |= {f"target {name} {n}": path for n, path in enumerate(target_files[name])}
        warm_up = Path(os.path.normpath(road.root / influence.run)) / "50_train"
        inputs["warm-up"] = finished_stage(warm_up)
    sections: dict[str, Section] = {"curate": config}
    sections |= {f"benchmark {benchmark.name}": benchmark.config for benchmark, _ in searched}
    stage = Stage(road.folder(STAGE), config=sections, inputs=inputs, seed=road.seed)
    if influence is None or stage.is_done():
        return Order(road, config, stage, files, searched, allowed, [], [], examples, absent)
    targets = [_target(name, paths) for name, paths in target_files.items()]
    found = references(warm_up, influence.checkpoints)
    return Order(road, config, stage, files, searched, allowed, targets, found, examples, absent)


def _examples(road: Road, config: CurateConfig) -> dict[str, list[Path]]:
    """The files that the steps learn from."""
    asked: dict[str, SourceConfig | None] = {}
    if config.recall is not None:
        asked |= {"recall seed": config.recall.seed, "recall general": config.recall.general}
    if config.quality is not None and config.quality.linear is not None:
        linear = config.quality.linear
        asked |= {"quality good": linear.good, "quality bad": linear.bad}
    return {
        name: [] if source is None else _files(road, name.replace(" ", "."), source)
        for name, source in asked.items()
    }


def _consulted(config: CurateConfig) -> dict[str, StageInput | Path]:
    """Other files and folders that decide a step's result, known by content."""
    files: dict[str, Path | None] = {}
    engines: dict[str, EngineConfig | None] = {}
    if config.recall is not None and config.recall.domains is not None:
        files["recall paths"] = config.recall.domains.paths
    labels, quality = config.labels, config.quality
    if labels is not None:
        for name, label in (("topic", labels.topic), ("stage", labels.stage)):
            if label is not None:
                files[f"label {name} table"] = label.table
                engines[f"label {name} model"] = label.engine
        predictions = labels.difficulty.predictions if labels.difficulty is not None else None
        files |= {f"label predictions {n}": path for n, path in enumerate(predictions or [])}
    if quality is not None and quality.loss is not None:
        files["quality model"] = quality.loss.hf
    if quality is not None and quality.question is not None:
        files["quality prompt"] = quality.question.prompt
        engines["quality model"] = quality.question.engine
    found: dict[str, StageInput | Path] = {
        name: path for name, path in files.items() if path is not None
    }
    for name, engine in engines.items():
        if engine is not None and engine.hf is not None:
            place = engine.hf.folder
            found[name] = StageInput(place, fingerprint_of_model(place))
    return found


def shard_stage(
    road: Road,
    config: CurateConfig,
    files: dict[str, list[Path]],
    searched: list[tuple[Benchmark, tuple[Rule, ...]]],
    part: Shard,
) -> Stage:
    """A shard's own stage; it knows the sources' files by path, size and time of change, since
    reading all of them would take each shard longer than its work."""
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {benchmark.name}": benchmark.rows_path for benchmark, _ in searched
    }
    for name, paths in files.items():
        for number, path in enumerate(paths):
            stamp = path.stat()
            seen = f"{path} {stamp.st_size} {stamp.st_mtime_ns}"
            inputs[f"source {name} {number}"] = StageInput(path, seen)
    sections: dict[str, Section] = {"curate": config}
    sections |= {f"benchmark {benchmark.name}": benchmark.config for benchmark, _ in searched}
    folder = road.folder(STAGE) / SHARDS / part.suffix.removeprefix(".shard-")
    return Stage(folder, config=sections, inputs=inputs, seed=road.seed)


def _target(name: str, paths: list[Path]) -> Collection:
    """A subtask, its records counted."""
    num_records = sum(1 for path in paths for _ in read_records(path))
    if not num_records:
        raise UserError(
            f"curate.influence.targets.{name}: there are no records in "
            f"{', '.join(map(str, paths))}; leave it out, or give it some"
        )
    digest = sha256_json([sha256_file(path) for path in paths])
    return Collection("target", name, paths, digest, num_records)


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


def _absent(config: DecontaminateConfig | None) -> list[str]:
    """The sets that `all` means and whose rows are not at hand; a named set must be there."""
    if config is None:
        return []
    meant = config.meant_by_all()
    absent = [name for name in meant if not has_rows(name, config.data)]
    if absent and len(absent) == len(meant):
        load_benchmark(meant[0], None, config.data)  # says what is missing
    if absent:
        log.warning(
            "curate.decontaminate.benchmarks: all does not look for %s: their rows are not in the "
            "data folder; name a set to be told how to get it",
            ", ".join(absent),
        )
    return absent


def _load_benchmarks(
    road: Road, config: DecontaminateConfig | None, absent: list[str]
) -> list[tuple[Benchmark, tuple[Rule, ...]]]:
    """Every benchmark that is looked for, with all its rows and its rules."""
    searched: list[tuple[Benchmark, tuple[Rule, ...]]] = []
    if config is None:
        return searched
    for choice in config.choices(has_synthesize=road.has("synthesize")):
        if choice.name in absent:
            continue
        rows = choice.rows
        if choice.stage is not None:
            rows = road.done(choice.stage).path / load_config(choice.name).rows
        searched.append((load_benchmark(choice.name, rows, config.data), tuple(choice.rules or ())))
    names = [benchmark.name for benchmark, _ in searched]
    if len(set(names)) != len(names):
        raise UserError(f"curate.decontaminate.benchmarks names one twice: {', '.join(names)}")
    return searched
