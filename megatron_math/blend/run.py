"""The blend room: indexes and a mix in, a sampling plan out.

Reads: the `blend` section, the indexes it names. Writes 40_blend: plan.json, order_<stage>.npy and
stats.json (the table's facts). Needs neither torch nor a process group: plan on a login node.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_math.base.files import atomic_open, read_json, sha256_json, write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.blend.build import Built, build_plan
from megatron_math.blend.config import BlendConfig, BlendStage, resolve
from megatron_math.blend.sources import find_indexes, open_sources
from megatron_math.blend.table import BlendTable
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import read_sidecar

STAGE = "40_blend"


@dataclass(frozen=True)
class _Work:
    config: BlendConfig
    stages: list[BlendStage]
    indexes: dict[str, IndexedDocuments]
    seed: int
    stage: Stage

    def build(self) -> Built:
        leaves = [leaf for stage in self.stages for leaf in stage.mix.leaves()]
        sources = open_sources(
            self.indexes,
            leaves,
            folder=self.stage.folder,
            seed=self.seed,
            validation=self.config.validation,
        )
        return build_plan(self.stages, sources, seed=self.seed, validation=self.config.validation)


def run(road: Road) -> Stage:
    """Plan the road's blend; nothing is done when the stage is up to date.

    Raises UserError for a mix that cannot be read, a missing index, two tokenizers, a budget that
    cannot be met.
    """
    work = _prepare(road)
    stage = work.stage
    if stage.is_done():
        log.info("%s is up to date", stage.folder)
        return stage
    built = work.build()  # a bad mix stops here, before anything is touched
    stage.begin()
    outputs = [stage.folder / "plan.json"]
    for planned, order_N in zip(built.content.stages, built.orders, strict=True):
        path = stage.folder / planned.order
        with atomic_open(path, "wb") as file:
            np.save(file, order_N, allow_pickle=False)
        outputs.append(path)
    write_json(outputs[0], built.content.model_dump(mode="json"))
    stage.finish(stats=built.facts, outputs=outputs)
    return stage


def dry_run(road: Road) -> BlendTable:
    """What `run` would plan, or has planned; writes nothing. Same errors as `run`."""
    work = _prepare(road)
    if work.stage.is_done():
        return BlendTable(read_json(work.stage.folder / "stats.json"))
    return BlendTable(work.build().facts)


def _prepare(road: Road) -> _Work:
    config = road.section("blend", BlendConfig)
    stages = resolve(config)
    leaves = [leaf for stage in stages for leaf in stage.mix.leaves()]
    indexes = find_indexes(road, leaves)
    inputs: dict[str, StageInput | Path] = {}
    for name, index in indexes.items():
        inputs |= _inputs(name, index)
    seed = road.seed if config.seed is None else config.seed
    stage = Stage(road.folder(STAGE), config={"blend": config}, inputs=inputs, seed=seed)
    return _Work(config, stages, indexes, seed, stage)


def _inputs(name: str, index: IndexedDocuments) -> dict[str, StageInput | Path]:
    """The index as an input: its sidecar's digests, or the files where it has none."""
    sidecar = read_sidecar(index)
    roles = {f"{name}.roles": index.roles_path} if index.roles_path.is_file() else {}
    if sidecar is None:
        return {f"{name}.bin": index.bin_path, f"{name}.idx": index.idx_path, **roles}
    told = {key: sidecar.get(key) for key in ("bin", "idx", "tokenizer")}
    return {name: StageInput(index.prefix, sha256_json(told)), **roles}
