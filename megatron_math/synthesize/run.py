"""Stage 10_synthesize: problems for training, held-out problems for measuring, what was dropped.

Reads the `synthesize` section and the road's seed, nothing else.
Writes problems.jsonl, heldout.jsonl, drops/problems.jsonl, stats.json.
"""

import json

from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.base.records import write_records
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage
from megatron_math.synthesize.config import SynthesizeConfig
from megatron_math.synthesize.families import FAMILIES
from megatron_math.synthesize.generate import Generator, measure
from megatron_math.synthesize.written import check_files


def run(road: Road) -> Stage:
    """Write and check the problems of a road; nothing to do when they are there already."""
    config = road.section("synthesize", SynthesizeConfig)
    stage = Stage(road.folder("10_synthesize"), config={"synthesize": config}, seed=road.seed)
    if stage.is_done():
        return stage
    stage.begin()
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
    return stage
