"""Stage 10_synthesize: problems for training, held-out problems for measuring, what was dropped.

Templates read the `synthesize` section and the road's seed, nothing else, and write problems.jsonl,
heldout.jsonl, drops/problems.jsonl, stats.json. All other methods are in `by_method`. Shards of
their work are in shards/<I>-of-<N>/.
"""

import json
import re
import shutil
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.base.records import write_records
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import Stage
from megatron_math.synthesize.by_method import ANSWERS, open_stage, write
from megatron_math.synthesize.config import SeededConfig, TemplateConfig, read_section
from megatron_math.synthesize.families import FAMILIES
from megatron_math.synthesize.generate import Generator, measure
from megatron_math.synthesize.written import check_files

STAGE = "10_synthesize"


def run(road: Road) -> Stage:
    """Write and check the problems of a road; nothing to do when they are there already."""
    config = read_section(road)
    if not isinstance(config, TemplateConfig):
        stage = open_stage(road, config, road.folder(STAGE))
        if not stage.is_done():
            stage.begin()
            write(road, config, stage)
        return stage
    stage = Stage(road.folder(STAGE), config={"synthesize": config}, seed=road.seed)
    if not stage.is_done():
        stage.begin()
        _write_templates(road, config, stage)
    return stage


def has_parts(road: Road) -> bool:
    """Whether the road's method can be shared out: all but the templates can."""
    return not isinstance(read_section(road), TemplateConfig)


def run_shard(road: Road, shard: Shard) -> Stage:
    """Work on every N-th seed, in 10_synthesize/shards/<I>-of-<N>: a stage of its own."""
    config = _seeded(road)
    stage = _shard_stage(road, config, shard)
    if not stage.is_done():
        stage.begin()
        write(road, config, stage, shard.index, shard.count)
    return stage


def run_merge(road: Road) -> Stage:
    """End the stage when all its shards are there: the same records as `run` writes.

    The shards' answers become the stage's, and the work is done again on these, which asks
    nothing. Then the shards go. Raises UserError where one is missing or of another configuration.
    """
    config = _seeded(road)
    stage = open_stage(road, config, road.folder(STAGE))
    if stage.is_done():
        return stage
    shards = [_shard_stage(road, config, shard) for shard in _shards_in(stage.folder)]
    for shard_stage in shards:
        if not shard_stage.is_done():
            why = "; ".join(shard_stage.changes()) or "it is not finished"
            raise UserError(f"{shard_stage.folder} cannot be merged: {why}; run this shard again")
    stage.begin()
    for role in config.engines():
        place = Path(ANSWERS) / role / "answers.jsonl"
        with atomic_open(stage.folder / place, "wb") as joined:
            for shard_stage in shards:
                with open(shard_stage.folder / place, "rb") as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
    write(road, config, stage)
    shutil.rmtree(stage.folder / "shards")
    return stage


def _seeded(road: Road) -> SeededConfig:
    config = read_section(road)
    if isinstance(config, TemplateConfig):
        raise UserError("templates are written by one process in minutes; leave shards out")
    return config


def _shard_stage(road: Road, config: SeededConfig, shard: Shard) -> Stage:
    name = shard.suffix.removeprefix(".shard-")
    return open_stage(road, config, road.folder(STAGE) / "shards" / name)


def _shards_in(folder: Path) -> list[Shard]:
    found = [re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in folder.glob("shards/*")]
    counts = {int(match[2]) for match in found if match}
    if len(counts) != 1:
        raise UserError(
            f"{folder / 'shards'} holds {'no shards' if not counts else 'shards of several splits'}"
            f" ({sorted(counts)}); run 'megatron-math synthesize --shard I/N' for every I of one N"
        )
    count = counts.pop()
    return [Shard(index, count) for index in range(count)]


def _write_templates(road: Road, config: TemplateConfig, stage: Stage) -> None:
    generator = Generator(config, road.seed, FAMILIES)
    problems, heldout = stage.folder / "problems.jsonl", stage.folder / "heldout.jsonl"
    drops = stage.folder / "drops" / "problems.jsonl"

    training = list(generator.training())
    write_records(problems, training)
    measured = list(generator.heldout(training))
    write_records(heldout, measured)
    with atomic_open(drops) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in generator.drops)

    faults = len(generator.drops) - generator.rejected["duplicate text"]
    if faults:
        log.warning("synthesize: %d problems failed their check; see %s", faults, drops)
    stats = {
        **measure(training),
        "heldout": measure(measured),
        "dropped": len(generator.drops),
        "draws_rejected": dict(generator.rejected.most_common()),
        "small_pairs_held_out": [f"{a} {b}" for a, b in sorted(generator.held_out.small)],
        "written": check_files(problems, heldout),
    }
    stage.finish(stats=stats, outputs=[problems, heldout, drops])
    log.info(
        "synthesize: %d problems, %d held out, in %s", len(training), len(measured), stage.folder
    )
