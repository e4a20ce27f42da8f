"""From stages of mixes to a plan: streams, targets, orders, and the facts about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.blend.config import BlendStage, Leaf
from megatron_math.blend.schedule import Schedule, first_samples, schedule
from megatron_math.blend.shares import Targets, quota_targets, share_targets
from megatron_math.blend.sources import Source, common_tokenizer
from megatron_math.blend.tables import PLANNED, Planned, Sizes
from megatron_math.dataset.cuts import segment_documents
from megatron_math.dataset.plan import (
    PLAN_FORMAT,
    PLAN_VERSION,
    History,
    PlanFile,
    PlanSource,
    PlanStage,
    Standing,
)
from megatron_math.dataset.split import HeldOutOrder, TrainingOrder
from megatron_math.dataset.stream import Int64Array, Mark, StreamSettings

Facts = dict[str, Any]
BLOCK_SAMPLES = 4096  # with up to 64 sources; the counts stay below a byte in eight samples


@dataclass(frozen=True)
class Built:
    """A plan in memory. arrays: by file name. facts: JSON types."""

    content: PlanFile
    arrays: dict[str, npt.NDArray]
    facts: Facts


@dataclass(frozen=True)
class _Use:
    """One source in one stage; total_tokens: where it ends, None when it does not.

    repeats_before: of its most-repeated document, before a stage that began the source again.
    """

    leaf: Leaf
    source: Source
    stream: Planned
    sizes: Sizes
    total_tokens: int | None
    repeats_before: int


def build_plan(
    stages: list[BlendStage],
    sources: Mapping[str, Source],
    *,
    seed: int,
    validation: float,
    history: History | None = None,
) -> Built:
    """Plan all stages. UserError when a budget or a quota cannot be met, with the numbers."""
    standings = dict(history.sources) if history else {}
    repeats: dict[str, int] = {}  # of the most-repeated document, before a source began again
    planned, facts = [], []
    arrays: dict[str, npt.NDArray] = {}
    for stage in stages:
        if stage.is_fresh:
            _check_fresh(stage, standings)
            for leaf in stage.mix.leaves():
                left = standings.pop(leaf.name, None)
                if left is not None:
                    epoch = sources[leaf.name].planned.training_tokens
                    repeats[leaf.name] = repeats.get(leaf.name, 0) - (-left.tokens // epoch)
        uses = [
            _use(
                stage,
                leaf,
                sources[leaf.name],
                standings.get(leaf.name),
                repeats.get(leaf.name, 0),
                seed,
            )
            for leaf in stage.mix.leaves()
        ]
        for use in uses:
            if history and standings.get(use.leaf.name) is history.sources.get(use.leaf.name):
                _check_start(use)
        targets = _targets(stage, uses)
        done = schedule(targets, [use.sizes for use in uses], stage.sequence_length, stage.tokens)
        tables = [use.stream.table(done.samples[j]) for j, use in enumerate(uses)]
        for j, use in enumerate(uses):
            standings[use.leaf.name] = Standing(
                mark=use.stream.mark(tables[j], done.samples[j]),
                tokens=use.stream.tokens_before + done.tokens[j],
                bin_digest=use.source.planned.bin.blake3,
            )
        described, stage_arrays = _describe_stage(stage, uses, targets, done, tables)
        planned.append(described)
        arrays |= stage_arrays
        facts.append(_stage_facts(stage, uses, targets, done))
    tokenizer = common_tokenizer(sources.values())
    content = PlanFile(
        format=PLAN_FORMAT,
        version=PLAN_VERSION,
        seed=seed,
        validation=validation,
        pad_id=tokenizer["eod"] if tokenizer else 0,
        tokenizer=tokenizer,
        history=history,
        indexes={name: source.planned for name, source in sources.items()},
        stages=planned,
    )
    totals = {key: sum(stage[key] for stage in facts) for key in ("samples", "tokens")}
    return Built(content, arrays, {**totals, "stages": facts})


def _check_fresh(stage: BlendStage, standings: Mapping[str, Standing]) -> None:
    if not any(leaf.name in standings for leaf in stage.mix.leaves()):
        raise UserError(
            f"stage '{stage.name}': data: fresh has no effect, since no stage before it uses "
            f"{', '.join(leaf.name for leaf in stage.mix.leaves())}; leave it out"
        )


def _use(
    stage: BlendStage,
    leaf: Leaf,
    source: Source,
    standing: Standing | None,
    repeats_before: int,
    seed: int,
) -> _Use:
    """Open the source's stream where the run left it, and find where it ends."""
    planned, tokens_before = source.planned, standing.tokens if standing else 0
    settings = StreamSettings(stage.sequence_length, leaf.pack, leaf.align)
    epochs_before, into_epoch = divmod(tokens_before, planned.training_tokens)
    end_epoch = leaf.max_epochs
    if leaf.kind == "epochs" and leaf.amount.denominator == 1 and not into_epoch:
        end_epoch = epochs_before + int(leaf.amount)
    if end_epoch is not None and end_epoch <= epochs_before:
        raise UserError(
            f"{leaf.where}.max_epochs: {end_epoch}, and the stages before have used "
            f"{epochs_before} epochs of '{leaf.name}'; raise it or leave the source out"
        )
    stream = PLANNED[leaf.pack](
        settings,
        TrainingOrder(source.index.lengths, source.split, seed=seed, name=leaf.name),
        segment_documents(settings, planned.training_documents, planned.training_tokens),
        planned.training_tokens,
        standing.mark if standing else Mark(),
        tokens_before,
        end_epoch,
    )
    sizes, total = stream.sizes(), stream.total_tokens
    if end_epoch is None and leaf.kind != "share":
        quota = leaf.amount * (planned.training_tokens if leaf.kind == "epochs" else 1)
        total, prefix = first_samples(sizes, -(-quota.numerator // quota.denominator))
        sizes = iter(prefix)
    return _Use(leaf, source, stream, sizes, total, repeats_before)


def _check_start(use: _Use) -> None:
    """The tokens left in the epoch, counted, against those that the run says it has used."""
    stream = use.stream
    left = stream.tokens_left()
    expected = (stream.start.epoch + 1) * stream.epoch_tokens - stream.tokens_before
    if left != expected:
        raise UserError(
            f"the source '{use.leaf.name}' has {left} tokens left in epoch {stream.start.epoch}, "
            f"by the {stream.tokens_before} that the run used there must be {expected}; the "
            f"checkpoint's data_state.json is damaged"
        )


def _targets(stage: BlendStage, uses: list[_Use]) -> Targets:
    totals = [use.total_tokens for use in uses]
    if stage.tokens is None:
        return quota_targets([total for total in totals if total is not None])
    targets = share_targets(stage.mix, totals)
    if targets.total_tokens is not None and targets.total_tokens < stage.tokens:
        raise UserError(
            f"stage '{stage.name}' asks for {stage.tokens} tokens, and all its sources have ended "
            f"by max_epochs after {targets.total_tokens}; lower `tokens` or raise max_epochs"
        )
    return targets


def _describe_stage(
    stage: BlendStage,
    uses: list[_Use],
    targets: Targets,
    done: Schedule,
    tables: list[Int64Array],
) -> tuple[PlanStage, dict[str, npt.NDArray]]:
    """The stage's entry and the arrays that it names."""
    sources, parts, first = [], [], 0
    for j, use in enumerate(uses):
        validation = _validation_table(use)
        places = []
        for table in (tables[j], validation):
            places.append((first, table.shape[1] - 1))
            parts.append(table)
            first += table.shape[1]
        sources.append(
            PlanSource(
                name=use.leaf.name,
                groups=list(use.leaf.groups),
                pack=use.leaf.pack,
                align=use.leaf.align,
                attend=use.leaf.attend,
                loss=use.leaf.loss,  # type: ignore[arg-type]
                share=str(targets.bends[0].shares[j]) if stage.tokens is not None else None,
                end_epoch=use.stream.end_epoch,
                segment_documents=use.stream.segment_documents,
                start=use.stream.start,
                tokens_before=use.stream.tokens_before,
                samples=done.samples[j],
                tokens=done.tokens[j],
                table=places[0],
                validation_table=places[1],
            )
        )
    block_samples = BLOCK_SAMPLES << max(0, (len(uses) - 1).bit_length() - 6)
    planned = PlanStage(
        name=stage.name,
        sequence_length=stage.sequence_length,
        num_samples=len(done.order_N),
        tokens=sum(done.tokens),
        order=f"order_{stage.name}.npy",
        counts=f"counts_{stage.name}.npy",
        block_samples=block_samples,
        segments=f"segments_{stage.name}.npy",
        sources=sources,
    )
    return planned, {
        planned.order: done.order_N,
        planned.counts: count_blocks(done.order_N, block_samples, len(uses)),
        planned.segments: np.concatenate(parts, axis=1),
    }


def _validation_table(use: _Use) -> Int64Array:
    planned, training = use.source.planned, use.stream
    if planned.validation_tokens == 0:
        return np.zeros((2, 1), dtype=np.int64)
    stream = PLANNED[use.leaf.pack](
        training.settings,
        HeldOutOrder(use.source.index.lengths, use.source.split),
        training.segment_documents,
        planned.validation_tokens,
        end_epoch=1,
    )
    return stream.table(sum(len(sizes) for sizes, _ in stream.sizes()))


def count_blocks(
    order_N: npt.NDArray[np.unsignedinteger], block_samples: int, num_sources: int
) -> Int64Array:
    """[blocks + 1, sources]: samples of each source before every block of the order."""
    counts = [np.zeros(num_sources, dtype=np.int64)]
    for first in range(0, len(order_N), block_samples):
        block = order_N[first : first + block_samples]
        counts.append(counts[-1] + np.bincount(block, minlength=num_sources))
    return np.stack(counts)


def _stage_facts(stage: BlendStage, uses: list[_Use], targets: Targets, done: Schedule) -> Facts:
    tokens = sum(done.tokens)
    reached = [bend for bend in targets.bends[1:] if bend.tokens < tokens]
    rows = []
    for j, use in enumerate(uses):
        planned, used_before = use.source.planned, use.stream.tokens_before
        slots = done.samples[j] * stage.sequence_length
        ended_at = [bend.tokens for bend in reached if j in bend.ended]
        rows.append(
            {
                "source": use.leaf.name,
                "groups": list(use.leaf.groups),
                "kind": use.leaf.kind,
                "pack": use.leaf.pack,
                "training_documents": planned.training_documents,
                "validation_documents": planned.validation_documents,
                "empty_documents": planned.empty_documents,
                "tokens_available": planned.training_tokens,
                "tokens_used": done.tokens[j],
                "samples": done.samples[j],
                "share_asked": float(targets.bends[0].shares[j]) if stage.tokens else None,
                "share_realised": done.tokens[j] / tokens,
                "epochs": done.tokens[j] / planned.training_tokens,
                "epochs_before": used_before / planned.training_tokens,
                # A document is repeated once its first token comes again.
                "most_repeated": use.repeats_before
                - (-(used_before + done.tokens[j]) // planned.training_tokens),
                "padding_tokens": slots - done.tokens[j],
                "padding_share": (slots - done.tokens[j]) / slots if slots else 0.0,
                "ends_at_token": ended_at[0] if ended_at else None,
            }
        )
    return {
        "stage": stage.name,
        "sequence_length": stage.sequence_length,
        "tokens_asked": stage.tokens,
        "tokens": tokens,
        "samples": len(done.order_N),
        "padding_tokens": len(done.order_N) * stage.sequence_length - tokens,
        "sources": rows,
        "redistributed": [
            {
                "from_token": bend.tokens,
                "ended": [uses[j].leaf.name for j in bend.ended],
                "shares": {u.leaf.name: float(bend.shares[j]) for j, u in enumerate(uses)},
            }
            for bend in reached
        ],
    }
