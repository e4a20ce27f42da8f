"""From stages of mixes to a plan: streams, targets, orders, and the facts about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.blend.config import BlendStage, Leaf
from megatron_math.blend.schedule import Schedule, cut_sizes, first_samples, schedule
from megatron_math.blend.shares import Targets, quota_targets, share_targets
from megatron_math.blend.sources import Source, common_tokenizer
from megatron_math.dataset.cuts import STREAMS
from megatron_math.dataset.plan import (
    PLAN_FORMAT,
    PLAN_VERSION,
    PlanFile,
    PlanSource,
    PlanStage,
)
from megatron_math.dataset.stream import Remainder, Stream, StreamSettings

Facts = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """A plan in memory. orders: by stage, source number of each sample. facts: JSON types."""

    content: PlanFile
    orders: list[npt.NDArray[np.unsignedinteger]]
    facts: Facts


@dataclass(frozen=True)
class _Use:
    """One source in one stage; `stop_samples` ends it early where a quota says so."""

    leaf: Leaf
    stream: Stream
    end_epoch: int | None
    after: tuple[int, int] | None
    stop_samples: int | None
    total_tokens: int | None  # where it ends; None when it does not


def build_plan(
    stages: list[BlendStage], sources: Mapping[str, Source], *, seed: int, validation: float
) -> Built:
    """Plan all stages. UserError when a budget or a quota cannot be met, with the numbers."""
    left_at: dict[str, tuple[int, int, Stream]] = {}
    planned, orders, facts = [], [], []
    for number, stage in enumerate(stages):
        uses = [
            _use(stage, leaf, sources[leaf.name], left_at.get(leaf.name), seed)
            for leaf in stage.mix.leaves()
        ]
        targets = _targets(stage, uses)
        done = schedule(
            targets,
            [cut_sizes(use.stream, use.stop_samples) for use in uses],
            stage.sequence_length,
            stage.tokens,
        )
        for use, samples in zip(uses, done.samples, strict=True):
            left_at[use.leaf.name] = (number, samples, use.stream)
        planned.append(_describe_stage(stage, uses, targets, done))
        facts.append(_stage_facts(stage, uses, targets, done, sources))
        orders.append(done.order_N)
    tokenizer = common_tokenizer(sources.values())
    content = PlanFile(
        format=PLAN_FORMAT,
        version=PLAN_VERSION,
        seed=seed,
        validation=validation,
        pad_id=tokenizer["eod"] if tokenizer else 0,
        tokenizer=tokenizer,
        indexes={name: source.planned for name, source in sources.items()},
        stages=planned,
    )
    totals = {key: sum(stage[key] for stage in facts) for key in ("samples", "tokens")}
    return Built(content, orders, {**totals, "stages": facts})


def _use(
    stage: BlendStage,
    leaf: Leaf,
    source: Source,
    left: tuple[int, int, Stream] | None,
    seed: int,
) -> _Use:
    """Open the source's stream where the stage before left it, and find where it ends."""
    start: Remainder | None = left[2].remainder(left[1]) if left else None
    settings = StreamSettings(leaf.name, seed, stage.sequence_length, leaf.pack, leaf.align)

    def open_stream(end_epoch: int | None) -> Stream:
        lengths, documents = source.index.lengths_D, source.split.training
        return STREAMS[leaf.pack](settings, lengths, documents, start=start, end_epoch=end_epoch)

    stream = open_stream(None)
    at_start_of_epoch = stream.tokens_before_start % stream.epoch_tokens == 0
    end_epoch = leaf.max_epochs
    if leaf.kind == "epochs" and leaf.amount.denominator == 1 and at_start_of_epoch:
        end_epoch = stream.first_epoch + int(leaf.amount)
    stop_samples = total = None
    if end_epoch is not None:
        if end_epoch <= stream.first_epoch:
            raise UserError(
                f"{leaf.where}.max_epochs: {end_epoch}, and the stages before have used "
                f"{stream.first_epoch} epochs of '{leaf.name}'; raise it or leave the source out"
            )
        stream = open_stream(end_epoch)
        total = stream.total_tokens
    elif leaf.kind != "share":
        quota = leaf.amount * (stream.epoch_tokens if leaf.kind == "epochs" else 1)
        stop_samples, total = first_samples(stream, -(-quota.numerator // quota.denominator))
    after = (left[0], left[1]) if left else None
    return _Use(leaf, stream, end_epoch, after, stop_samples, total)


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
    stage: BlendStage, uses: list[_Use], targets: Targets, done: Schedule
) -> PlanStage:
    sources = [
        PlanSource(
            name=use.leaf.name,
            groups=list(use.leaf.groups),
            pack=use.leaf.pack,
            align=use.leaf.align,
            attend=use.leaf.attend,
            loss=use.leaf.loss,  # type: ignore[arg-type]
            share=str(targets.bends[0].shares[j]) if stage.tokens is not None else None,
            end_epoch=use.end_epoch,
            after=use.after,
            samples=done.samples[j],
            tokens=done.tokens[j],
            epoch_samples=use.stream.epoch_samples(done.samples[j]),
        )
        for j, use in enumerate(uses)
    ]
    return PlanStage(
        name=stage.name,
        sequence_length=stage.sequence_length,
        num_samples=len(done.order_N),
        tokens=sum(done.tokens),
        order=f"order_{stage.name}.npy",
        sources=sources,
    )


def _stage_facts(
    stage: BlendStage,
    uses: list[_Use],
    targets: Targets,
    done: Schedule,
    sources: Mapping[str, Source],
) -> Facts:
    tokens = sum(done.tokens)
    reached = [bend for bend in targets.bends[1:] if bend.tokens < tokens]
    rows = []
    for j, use in enumerate(uses):
        planned, stream = sources[use.leaf.name].planned, use.stream
        used_before = stream.tokens_before_start
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
                "most_repeated": -(-(used_before + done.tokens[j]) // planned.training_tokens),
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
