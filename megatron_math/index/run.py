"""The index room: the road's sources become 30_index/<source>_text_document.{bin,idx,ids,json}.

Reads: the `index` section, the sources, 00_base/tokenizer or another one. Writes: 30_index.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.index.blocks import find_files, read_blocks
from megatron_math.index.config import IndexConfig, SourceConfig, TrainedTokenizer
from megatron_math.index.documents import Recipe, read_texts
from megatron_math.index.encode import Output, encode_files, reusable_sidecar
from megatron_math.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece

STAGE = "30_index"


def run(road: Road) -> Stage:
    """Index every source of the road; nothing is done when the stage is up to date.

    A killed run continues with the first source that is not whole. Raises UserError for missing
    or unreadable sources and for an unusable tokenizer.
    """
    config = road.section("index", IndexConfig)
    files = {name: _files(road, name, source) for name, source in config.sources.items()}
    inputs: dict[str, StageInput | Path] = {}
    given = _given_tokenizer(road, config)
    if given is not None:
        inputs["tokenizer"] = given
    for name, paths in files.items():
        inputs |= {f"{name} {number}": path for number, path in enumerate(paths)}
    stage = Stage(road.folder(STAGE), config={"index": config}, inputs=inputs, seed=road.seed)
    if stage.is_done():
        log.info("%s is up to date", stage.folder)
        return stage
    if given is not None:
        load_tokenizer(given)  # an unusable one stops us here
    stage.begin()
    started = time.monotonic()
    tokenizer = _write_tokenizer(stage.folder / "tokenizer", given, config, files, road.seed)
    outputs = {name: _output(stage.folder, name, config) for name in files}
    _remove_others(stage.folder, outputs)
    sidecars = {
        name: _index_source(name, paths, outputs[name], tokenizer, config)
        for name, paths in files.items()
    }
    paths = [path for output in outputs.values() for path in output.paths]
    stage.finish(
        stats=_stats(sidecars, tokenizer, time.monotonic() - started),
        outputs=[stage.folder / "tokenizer", *paths],
    )
    return stage


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
    files: dict[str, list[Path]],
    seed: int,
) -> Tokenizer:
    """Put the road's tokenizer into `folder`, whose earlier files go, and load it from there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    if given is not None:
        load_tokenizer(given).save(folder)
        return load_tokenizer(folder)
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


def _texts(config: IndexConfig, files: dict[str, list[Path]], names: list[str]) -> Iterator[str]:
    for name in names:
        recipe = _recipe(config.sources[name])
        for path in files[name]:
            for block in read_blocks(path):
                yield from read_texts(block, [recipe])[1][0]


def _recipe(source: SourceConfig) -> Recipe:
    return Recipe(key=source.text_key, template=source.template)


def _output(folder: Path, name: str, config: IndexConfig) -> Output:
    return Output(folder / f"{name}_text_document", _recipe(config.sources[name]))


def _remove_others(folder: Path, outputs: dict[str, Output]) -> None:
    """Take away indexes of sources that the road no longer has: `blend` would see them."""
    wanted = {path for output in outputs.values() for path in output.paths}
    for path in sorted(folder.glob("*_text_document.*")):
        if path not in wanted:
            log.info("removing %s, which is of no source of this road", path)
            path.unlink()


def _index_source(
    name: str, paths: list[Path], output: Output, tokenizer: Tokenizer, config: IndexConfig
) -> dict[str, Any]:
    there = reusable_sidecar(paths, output, tokenizer, append_eod=config.append_eod)
    if there is not None:
        log.info("%s is whole already", output.prefix)
        return there
    (sidecar,) = encode_files(
        paths,
        [output],
        tokenizer,
        append_eod=config.append_eod,
        num_workers=config.workers,
        log_interval=config.log_interval,
        label=name,
    )
    return sidecar


def _stats(
    sidecars: dict[str, dict[str, Any]], tokenizer: Tokenizer, seconds: float
) -> dict[str, Any]:
    counts = ("documents", "empty_documents", "tokens", "text_bytes")
    return {
        **{key: sum(sidecar[key] for sidecar in sidecars.values()) for key in counts},
        "seconds": round(seconds, 3),
        "tokenizer": tokenizer.describe(),
        "sources": {
            name: {key: sidecar[key] for key in counts} for name, sidecar in sidecars.items()
        },
    }
