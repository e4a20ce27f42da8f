"""The blend room: indexes and a mix in, a sampling plan out.

Reads: the `blend` section, the indexes it names, and the data_state.json of the checkpoint that it
continues. Writes 40_blend: plan.json with its arrays, stamps.json, and stats.json (the table's
facts). Needs neither torch nor a process group: plan on a login node.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base.files import atomic_open, read_json, sha256_json, write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.blend.build import Built, build_plan
from megatron_math.blend.config import BlendConfig, BlendStage, resolve
from megatron_math.blend.continued import (
    check_sources,
    find_data_state,
    read_data_state,
    read_history,
)
from megatron_math.blend.sources import find_indexes, open_sources
from megatron_math.blend.table import BlendTable
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import read_sidecar
from megatron_math.dataset.plan import PLAN_VERSION, STAMPS, Plan, read_plan

STAGE = "40_blend"


CONTINUED = "continued_from.json"


@dataclass(frozen=True)
class _Work:
    config: BlendConfig
    stages: list[BlendStage]
    indexes: dict[str, IndexedDocuments]
    seed: int
    stage: Stage
    data_state: dict[str, Any] | None

    def is_planned(self) -> bool:
        """The stage is done, and by a program that wrote plans as this one does."""
        path = self.stage.folder / "plan.json"
        return self.stage.is_done() and read_json(path)["version"] == PLAN_VERSION

    def build(self) -> Built:
        leaves = [leaf for stage in self.stages for leaf in stage.mix.leaves()]
        history = None
        if self.data_state is not None:
            history = read_history(
                self.data_state,
                checkpoint=str(self.config.continue_from),
                seed=self.seed,
                validation=self.config.validation,
            )
        sources = open_sources(
            self.indexes,
            leaves,
            folder=self.stage.folder,
            seed=self.seed,
            validation=self.config.validation,
        )
        if history is not None:
            check_sources(history, sources)
        return build_plan(
            self.stages,
            sources,
            seed=self.seed,
            validation=self.config.validation,
            history=history,
        )


def run(road: Road) -> Stage:
    """Plan the road's blend; nothing is done when the stage is up to date.

    Raises UserError for a mix that cannot be read, a missing or damaged index, two tokenizers, a
    budget that cannot be met, a checkpoint that cannot be continued.
    """
    work = _prepare(road)
    stage = work.stage
    if work.is_planned():
        plan = read_plan(stage.folder)
        plan.verify(hash_bytes=None)
        _write_stamps(plan)
        log.info("%s is up to date", stage.folder)
        return stage
    built = work.build()  # a bad mix stops here, before anything is touched
    stage.begin()
    outputs = []
    for name, array in built.arrays.items():
        outputs.append(stage.folder / name)
        with atomic_open(outputs[-1], "wb") as file:
            np.save(file, array, allow_pickle=False)
    if work.data_state is not None:
        outputs.append(stage.folder / CONTINUED)
        kept = {"checkpoint": work.config.continue_from, "data_state": work.data_state}
        write_json(outputs[-1], kept)
    outputs.append(stage.folder / "plan.json")
    write_json(outputs[-1], built.content.model_dump(mode="json"))
    _write_stamps(Plan(stage.folder, built.content))
    stage.finish(stats=built.facts, outputs=outputs)
    return stage


def _write_stamps(plan: Plan) -> None:
    """Note the files' times, so that whoever opens the plan need not read them while they stay.

    No output of the stage: plans of equal content are equal wherever their indexes lie.
    """
    found, path = plan.stamps(), plan.folder / STAMPS
    if not path.is_file() or read_json(path) != found:
        write_json(path, found)


def dry_run(road: Road) -> BlendTable:
    """What `run` would plan, or has planned; writes nothing. Same errors as `run`."""
    work = _prepare(road)
    if work.is_planned():
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
    data_state = None
    if config.continue_from is not None:
        path = find_data_state(config.continue_from, road.folder(STAGE) / CONTINUED)
        data_state = read_data_state(path)
        inputs["continue_from"] = StageInput(path, sha256_json(data_state))
    seed = road.seed if config.seed is None else config.seed
    stage = Stage(road.folder(STAGE), config={"blend": config}, inputs=inputs, seed=seed)
    return _Work(config, stages, indexes, seed, stage, data_state)


def _inputs(name: str, index: IndexedDocuments) -> dict[str, StageInput | Path]:
    """The index as an input: its sidecar's digests, or the files where it has none."""
    sidecar = read_sidecar(index)
    roles = {f"{name}.roles": index.roles_path} if index.roles_path.is_file() else {}
    if sidecar is None:
        return {f"{name}.bin": index.bin_path, f"{name}.idx": index.idx_path, **roles}
    told = {key: sidecar.get(key) for key in ("bin", "idx", "tokenizer")}
    return {name: StageInput(index.prefix, sha256_json(told)), **roles}
