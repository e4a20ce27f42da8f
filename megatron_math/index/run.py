"""The index room: the road's sources become 30_index/<source>_text_document.{bin,idx,ids,json}.

Reads: the `index` section, the sources, 00_base/tokenizer or another one. Writes: 30_index, with
what could not be used in drops/<source>.jsonl. Shards of the work are in shards/<I>-of-<N>/.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.index.blocks import LongLine, find_files, read_blocks
from megatron_math.index.building import Output
from megatron_math.index.config import IndexConfig, SourceConfig, TrainedTokenizer
from megatron_math.index.documents import make_texts, scan_block
from megatron_math.index.encode import Job, encode_files, reusable_sidecar
from megatron_math.index.journal import beside
from megatron_math.index.merge import merge_quarantines, merge_shards
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Shard, SourceFile
from megatron_math.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece

STAGE = "30_index"
Files = dict[str, list[Path]]


def run(road: Road) -> Stage:
    """Index every source of the road; nothing is done when the stage is up to date.

    A killed run continues. Raises UserError for missing or unreadable sources and for an unusable
    tokenizer, and as `encode_files` does.
    """
    config = road.section("index", IndexConfig)
    files = _all_files(road, config)
    given = _given_tokenizer(road, config)
    stage = Stage(
        road.folder(STAGE),
        config={"index": config},
        inputs=_inputs(given, files, lambda path: path),
        seed=road.seed,
    )
    if stage.is_done():
        log.info("%s is up to date", stage.folder)
        return stage
    if given is not None:
        load_tokenizer(given)  # an unusable one stops us here
    stage.begin()
    started = time.monotonic()
    tokenizer = _write_tokenizer(stage.folder / "tokenizer", given, config, files, road.seed)
    jobs = _jobs(stage.folder, config, files, tokenizer, None)
    sidecars = {name: _index_source(name, job, config) for name, job in jobs.items()}
    _remove_others(stage.folder, jobs)
    _finish(stage, jobs, sidecars, tokenizer, started)
    return stage


def run_shard(road: Road, shard: Shard) -> Stage:
    """Index one part of every source, into 30_index/shards/<I>-of-<N>; a stage of its own.

    Files count by size and time of change: no shard reads what others read. Raises UserError as
    `run` does, and where a tokenizer is to be trained, for which all text is needed.
    """
    config, files, given, tokenizer = _for_shards(road)
    stage = _shard_stage(road, shard, config, files, given)
    if stage.is_done():
        log.info("%s is up to date", stage.folder)
        return stage
    stage.begin()
    started = time.monotonic()
    jobs = _jobs(stage.folder, config, files, tokenizer, shard)
    sidecars = {name: _index_source(name, job, config) for name, job in jobs.items()}
    _finish(stage, jobs, sidecars, tokenizer, started)
    return stage


def run_merge(road: Road) -> Stage:
    """End the stage when all its shards are there: the same bytes as `run` writes.

    The shards go. Raises UserError where one is missing or of another configuration.
    """
    config, files, given, tokenizer = _for_shards(road)
    folder = road.folder(STAGE)
    stage = Stage(
        folder,
        config={"index": config},
        inputs=_inputs(given, files, lambda path: path),
        seed=road.seed,
    )
    if stage.is_done():
        log.info("%s is up to date", stage.folder)
        return stage
    shards = [_shard_stage(road, shard, config, files, given) for shard in _shards_in(folder)]
    for shard_stage in shards:
        if not shard_stage.is_done():
            why = "; ".join(shard_stage.changes()) or "it is not finished"
            raise UserError(f"{shard_stage.folder} cannot be merged: {why}; run this shard again")
    stage.begin()
    started = time.monotonic()
    tokenizer = _write_tokenizer(folder / "tokenizer", given, config, files, road.seed)
    jobs = _jobs(folder, config, files, tokenizer, None)
    sidecars = {}
    for name, job in jobs.items():
        prefix = job.outputs[0].prefix
        parts = [beside(s.folder / prefix.name, _suffix_of(s.folder)) for s in shards]
        sidecars[name] = merge_shards(prefix, parts)
        drops = [shard_stage.folder / "drops" / f"{name}.jsonl" for shard_stage in shards]
        merge_quarantines(parts, drops, job.quarantine)
    _remove_others(folder, jobs)
    _finish(stage, jobs, sidecars, tokenizer, started)
    shutil.rmtree(folder / "shards")
    return stage


def _for_shards(road: Road) -> tuple[IndexConfig, Files, Path, Tokenizer]:
    config = road.section("index", IndexConfig)
    given = _given_tokenizer(road, config)
    if given is None:
        raise UserError(
            "index.tokenizer is to be trained, which shards cannot do; train it with "
            "'megatron-math index' on a part of the sources and give its path"
        )
    return config, _all_files(road, config), given, load_tokenizer(given)


def _shard_stage(road: Road, shard: Shard, config: IndexConfig, files: Files, given: Path) -> Stage:
    def stamped(path: Path) -> StageInput:
        file = SourceFile.look(path)
        return StageInput(path, sha256_json([file.num_bytes, file.changed_ns]))

    return Stage(
        road.folder(STAGE) / "shards" / shard.suffix.removeprefix(".shard-"),
        config={"index": config},
        inputs=_inputs(given, files, stamped),
        seed=road.seed,
    )


def _shards_in(folder: Path) -> list[Shard]:
    found = [re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in folder.glob("shards/*")]
    counts = {int(match[2]) for match in found if match}
    if len(counts) != 1:
        raise UserError(
            f"{folder / 'shards'} holds {'no shards' if not counts else 'shards of several splits'}"
            f" ({sorted(counts)}); run 'megatron-math index --shard I/N' for every I of one N"
        )
    count = counts.pop()
    return [Shard(index, count) for index in range(count)]


def _suffix_of(shard_folder: Path) -> str:
    return f".shard-{shard_folder.name}"


def _inputs(
    given: Path | None, files: Files, as_input: Callable[[Path], Path | StageInput]
) -> dict[str, StageInput | Path]:
    inputs: dict[str, StageInput | Path] = {} if given is None else {"tokenizer": given}
    for name, paths in files.items():
        inputs |= {f"{name} {number}": as_input(path) for number, path in enumerate(paths)}
    return inputs


def _all_files(road: Road, config: IndexConfig) -> Files:
    return {name: _files(road, name, source) for name, source in config.sources.items()}


def _files(road: Road, name: str, source: SourceConfig) -> list[Path]:
    what = f"index.sources.{name}"
    if source.path is not None:
        return find_files(source.path, what)
    assert source.stage is not None, source
    assert source.file is not None, source
    return find_files(str(road.done(source.stage).path / source.file), what)


def _given_tokenizer(road: Road, config: IndexConfig) -> Path | None:
    """The tokenizer that the road brings; None when one is to be trained."""
    if isinstance(config.tokenizer, TrainedTokenizer):
        return None
    if config.tokenizer != "base":
        path = Path(config.tokenizer)
        if not path.exists():
            raise UserError(f"index.tokenizer: {path} does not exist; give a folder or a file")
        return path
    folder = road.done("00_base").path / "tokenizer"
    if not folder.is_dir():
        raise UserError(
            f"index.tokenizer is 'base', but {folder} does not exist: this base has no tokenizer. "
            f"Give index.tokenizer a path, or {{train: {{vocab_size: ...}}}}"
        )
    return folder


def _write_tokenizer(
    folder: Path,
    given: Path | None,
    config: IndexConfig,
    files: Files,
    seed: int,
) -> Tokenizer:
    """Put the road's tokenizer into `folder`, whose earlier files go, and load it from there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    if given is not None:
        load_tokenizer(given).save(folder)
        return load_tokenizer(folder, with_encoder=True)
    assert isinstance(config.tokenizer, TrainedTokenizer), config.tokenizer
    train = config.tokenizer.train
    log.info("training a tokenizer of %d ids", train.vocab_size)
    model = folder / "tokenizer.model"
    train_sentencepiece(
        _texts(config, files, train.sources or list(files)),
        model,
        train.vocab_size,
        sample_bytes=train.sample_bytes,
        character_coverage=train.character_coverage,
        seed=seed,
    )
    load_tokenizer(model).save(folder)
    return load_tokenizer(folder)


def _texts(config: IndexConfig, files: Files, names: list[str]) -> Iterator[str]:
    """What can be used of some sources; the rest is told of when they are indexed."""
    for name in names:
        recipe = _recipe(config.sources[name])
        for path in files[name]:
            for block in read_blocks(path, max_line_bytes=config.max_line_bytes):
                if not isinstance(block.content, LongLine):
                    yield from make_texts(scan_block(block.content, [recipe]), recipe).strings()


def _recipe(source: SourceConfig) -> Recipe:
    return Recipe(key=source.text_key, template=source.template, chat=source.chat)


def _jobs(
    folder: Path, config: IndexConfig, files: Files, tokenizer: Tokenizer, shard: Shard | None
) -> dict[str, Job]:
    """What is to be written for every source."""
    suffix = shard.suffix if shard else ""
    jobs = {}
    for name, source in config.sources.items():
        prefix = folder / f"{name}_text_document{suffix}"
        jobs[name] = Job(
            path=prefix,
            files=files[name],
            outputs=[Output(prefix, _recipe(source))],
            tokenizer=tokenizer,
            quarantine=folder / "drops" / f"{name}.jsonl",
            append_eod=config.append_eod,
            engine=config.engine,
            max_line_bytes=config.max_line_bytes,
            shard=shard,
        )
    return jobs


def _remove_others(folder: Path, jobs: dict[str, Job]) -> None:
    """Take away indexes of sources that the road no longer has: `blend` would see them."""
    for pattern, wanted in (
        ("*_text_document.*", {job.outputs[0].prefix.name for job in jobs.values()}),
        ("drops/*.jsonl", set(jobs)),
    ):
        for path in sorted(folder.glob(pattern)):
            if not any(path.name.startswith(f"{name}.") for name in wanted):
                log.info("removing %s, which is of no source of this road", path)
                path.unlink()


def _index_source(name: str, job: Job, config: IndexConfig) -> dict[str, Any]:
    there = reusable_sidecar(job, job.outputs[0])
    if there is not None:
        log.info("%s is whole already", job.path)
        return there
    (sidecar,) = encode_files(
        job,
        num_workers=config.workers or len(os.sched_getaffinity(0)),
        max_bad=config.max_bad,
        log_interval=config.log_interval,
        label=name,
    )
    return sidecar


def _finish(
    stage: Stage,
    jobs: dict[str, Job],
    sidecars: dict[str, dict[str, Any]],
    tokenizer: Tokenizer,
    started: float,
) -> None:
    counts = ("documents", "tokens", "text_bytes")
    aside = ("lines", "empty", "quarantined")
    by_source = {
        name: {key: sidecar[key] for key in counts}
        | {key: sidecar["accounting"][key] for key in aside}
        for name, sidecar in sidecars.items()
    }
    totals = {key: sum(row[key] for row in by_source.values()) for key in (*counts, *aside)}
    outputs = [path for job in jobs.values() for path in job.outputs[0].paths]
    outputs += [job.quarantine for job in jobs.values() if job.quarantine.is_file()]
    own = [stage.folder / "tokenizer"] if (stage.folder / "tokenizer").is_dir() else []
    stage.finish(
        stats=totals
        | {
            "seconds": round(time.monotonic() - started, 3),
            "tokenizer": tokenizer.describe(),
            "engines": sorted({sidecar["engine"]["name"] for sidecar in sidecars.values()}),
            "sources": by_source,
        },
        outputs=[*own, *outputs],
    )
