"""Make the gradients that are missing, score the candidates, choose. Loads torch for the first."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file
from megatron_math.base.log import log
from megatron_math.base.shard import Shard
from megatron_math.curate.config import InfluenceConfig
from megatron_math.curate.influence.blocks import Collection, GradientFolder, gradient_folder
from megatron_math.curate.influence.texts import read_texts
from megatron_math.curate.influence.warm_up import Reference, opened
from megatron_math.curate.order import Order
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import checkpoint_lora
from megatron_math.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Job:
    """What is scored by what. folder: 20_curate/influence."""

    folder: Path
    config: InfluenceConfig
    seed: int
    references: list[Reference]
    sources: list[Collection]
    targets: list[Collection]

    @cached_property
    def model(self) -> ModelConfig:
        return ModelConfig.model_validate(self.references[0].checkpoint.read("model.json"))

    @cached_property
    def max_tokens(self) -> int:
        return min(self.config.max_tokens, self.model.max_sequence_length)

    @property
    def projection_seed(self) -> str:
        return f"influence {self.seed}"

    def gradients(self, collection: Collection, reference: Reference) -> GradientFolder:
        lora = checkpoint_lora(reference.checkpoint.folder)
        assert lora is not None
        return gradient_folder(
            self.folder / "gradients",
            collection,
            reference,
            self.config,
            seed=self.seed,
            width=self.config.dimension or lora.num_parameters(self.model),
        )


def build_job(order: Order, candidates: Path) -> Job:
    """What is asked, with records counted and digested; candidates: the folder with them.

    Raises UserError where there is nothing to score.
    """
    config = order.config.influence
    assert config is not None
    counts = read_json(candidates / "stats.json")["sources"]
    sources = [
        Collection("source", name, [path], sha256_file(path), counts[name]["kept"])
        for name in order.files
        if config.kept(name, counts[name]["kept"]) is not None
        for path in [candidates / f"{name}.jsonl"]
    ]
    empty = [one.name for one in sources if not one.num_records]
    if empty:
        raise UserError(
            f"curate.influence: no record of {', '.join(empty)} is left to choose from; name the "
            "other sources in influence.keep"
        )
    return Job(
        order.stage.folder / "influence",
        config,
        order.road.seed,
        order.references,
        sources,
        order.targets,
    )


def make_gradients(job: Job, part: Shard) -> None:
    """Compute this part's blocks that are not on disk: every `count`-th of all of them."""
    todo: list[tuple[Reference, GradientFolder, set[int]]] = []
    number = 0
    for reference in job.references:
        for collection in (*job.targets, *job.sources):
            gradients = job.gradients(collection, reference)
            missing = set(gradients.missing())
            mine = set()
            for block in range(gradients.num_blocks):
                if number % part.count == part.index and block in missing:
                    mine.add(block)
                number += 1
            if mine:
                todo.append((reference, gradients, mine))
    progress = _Progress(sum(len(blocks) for _, _, blocks in todo))
    for reference in job.references:
        folders = [(gradients, blocks) for one, gradients, blocks in todo if one is reference]
        if folders:
            _at_checkpoint(job, reference, folders, progress)


def _at_checkpoint(
    job: Job,
    reference: Reference,
    folders: list[tuple[GradientFolder, set[int]]],
    progress: "_Progress",
) -> None:
    from megatron_math.curate.influence.gradients import TextGradients
    from megatron_math.curate.influence.projection import Projection

    config = job.config
    tokenizer = load_tokenizer(reference.checkpoint.folder / "tokenizer")
    with opened(reference, max_tokens=job.max_tokens, dtype=config.dtype) as (model, adam):
        maker = TextGradients(
            model,
            Projection(config.dimension, job.projection_seed),
            batch_tokens=config.batch_tokens,
        )
        for gradients, wanted in folders:
            state = adam if gradients.collection.kind == "source" else None
            blocks = gradients.collection.blocks(gradients.block_records)
            for number, records in enumerate(blocks):
                if number not in wanted:
                    continue
                texts = read_texts(records, tokenizer, max_tokens=job.max_tokens, loss=config.loss)
                rows = maker.rows(texts, state)
                unsound = np.flatnonzero(~np.isfinite(rows).all(1))
                if len(unsound):
                    raise UserError(
                        f"the gradient of {records[unsound[0]].id} of {gradients.collection.name} "
                        f"is not finite at {reference.checkpoint.folder}; take it out, or the "
                        "checkpoint (curate.influence.checkpoints)"
                    )
                gradients.write(number, rows)
                progress.block(gradients, len(records))


class _Progress:
    """A line in the log for every block: how fast, and how long still."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks, self._num_done = num_blocks, 0
        self._num_records, self._began = 0, time.perf_counter()

    def block(self, gradients: GradientFolder, num_records: int) -> None:
        self._num_done += 1
        self._num_records += num_records
        seconds = time.perf_counter() - self._began
        log.info(
            "gradients of %s at iteration %d: block %d of %d, %.1f records/s, %.0f s left",
            gradients.collection.name, gradients.reference.iteration,
            self._num_done, self._num_blocks, self._num_records / seconds,
            seconds / self._num_done * (self._num_blocks - self._num_done),
        )  # fmt: skip


def scores(job: Job, source: Collection) -> np.ndarray:
    """Of each record with each subtask, [records, subtasks]: the cosine of its Adam step with the
    gradient of a target, in the mean over targets, summed over checkpoints by their weights."""
    total_NK = np.zeros((source.num_records, len(job.targets)))
    for reference in job.references:
        means_dK = np.stack([_mean(job.gradients(t, reference)) for t in job.targets], axis=1)
        begin = 0
        for rows_Nd in job.gradients(source, reference).read():
            end = begin + len(rows_Nd)
            total_NK[begin:end] += reference.weight * (rows_Nd @ means_dK)
            begin = end
    return total_NK


def _mean(gradients: GradientFolder) -> np.ndarray:
    total_d = np.zeros(gradients.width)
    for rows_Nd in gradients.read():
        total_d += rows_Nd.sum(0, dtype=np.float64)
    return (total_d / gradients.collection.num_records).astype(np.float32)


def ranks(scores_NK: np.ndarray) -> np.ndarray:
    """The place of each record from 0, by its best subtask; of equal ones the earlier first."""
    order = np.argsort(-scores_NK.max(1), kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def seal(job: Job, candidates: Path) -> None:
    """Write manifests of all gradients, and remove what is of other settings."""
    used = {candidates}
    for gradients in _all_gradients(job):
        gradients.seal()
        used.add(gradients.folder)
    for pattern in ("gradients/*/*", "candidates-*", ".candidates-*"):
        for folder in set(job.folder.glob(pattern)) - used:
            shutil.rmtree(folder)
    for folder in (job.folder / "gradients").iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()


def _all_gradients(job: Job) -> Iterator[GradientFolder]:
    for reference in job.references:
        for collection in (*job.targets, *job.sources):
            yield job.gradients(collection, reference)
