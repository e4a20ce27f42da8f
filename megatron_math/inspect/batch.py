"""The samples of one training step as text: documents, lineage, and which tokens carry loss.

S sequence length: a sample is S + 1 slots, of which the first is never a label and the last never
an input.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.dataset.plan import Plan, load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.dataset.stream import Piece
from megatron_math.inspect.index import open_record_ids
from megatron_math.inspect.lineage import find_origins
from megatron_math.inspect.texts import decode_part, find_tokenizer
from megatron_math.tokenizer import Tokenizer
from megatron_math.train.config import TrainConfig
from megatron_math.train.stages import stages_of

NUM_SAMPLES = 4


def inspect_batch(
    road: Road,
    *,
    iteration: int,
    num_samples: int = NUM_SAMPLES,
    tokenizer: Path | None = None,
) -> dict[str, Any]:
    """The first `num_samples` samples of training step `iteration` (from 1, as in metrics.jsonl).

    Raises UserError when the plan is missing or stale, or has no such step.
    """
    plan = load_plan(road.done("40_blend").path)
    reader, samples = samples_of(plan, iteration, road.section("train", TrainConfig))
    near = [road.folder("30_index") / "tokenizer", road.folder("00_base") / "tokenizer"]
    near += [plan.prefix(name).parent / "tokenizer" for name in reader.sources]
    found = find_tokenizer(tokenizer, near, plan.tokenizer)
    return {
        "road": road.name,
        "iteration": iteration,
        "stage": reader.stage,
        "sequence_length": reader.sequence_length,
        "samples_in_step": len(samples),
        "tokenizer_at": found and str(found.path),
        "samples": [_sample(plan, reader, sample, found) for sample in samples[:num_samples]],
    }


def samples_of(plan: Plan, iteration: int, train: TrainConfig) -> tuple[PlanReader, range]:
    """The reader of the stage that step `iteration` (from 1) lies in, and its sample numbers."""
    stages = stages_of(train, plan)
    for stage, planned in zip(stages, plan.stages, strict=True):
        if stage.first < iteration <= stage.end:
            size = stage.train.global_batch_size
            first = (iteration - 1 - stage.first) * size
            return PlanReader(plan, stage.name), range(
                first, min(planned.num_samples, first + size)
            )
    raise UserError(
        f"iteration {iteration}: this plan has the iterations {stages[0].first + 1} to "
        f"{stages[-1].end}"
    )


def _sample(
    plan: Plan, reader: PlanReader, sample: int, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    batch = reader.batch([sample])
    ids = np.append(batch.tokens_BS[0], batch.labels_BS[0, -1])
    is_label = np.append(False, batch.loss_mask_BS[0] > 0)
    source, number = reader.locate(sample)
    name = reader.sources[source]
    pieces = reader.stream(source).layout(number)
    record_ids = open_record_ids(plan.index(name))
    chosen = [piece.document for piece in pieces if piece.tokens]
    origins = find_origins(plan.index(name), record_ids, chosen, tokenizer)
    documents, at = [], 0
    for piece in pieces:
        end = at + piece.tokens
        facts = _document(piece, ids[at:end], is_label[at:end], tokenizer)
        origin = origins.get(piece.document)
        documents.append(
            {
                "id": record_ids[piece.document] if record_ids else None,
                "epoch": piece.epoch,
                "origin": origin and origin.to_json(),
            }
            | facts
        )
        at = end + piece.padding
    return {
        "sample": sample,
        "source": name,
        "tokens": sum(piece.tokens for piece in pieces),
        "padding": len(ids) - sum(piece.tokens for piece in pieces),
        "loss_tokens": int(is_label.sum()),
        "documents": [document for document in documents if document["tokens"]],
    }


def _document(
    piece: Piece, ids: np.ndarray, is_label: np.ndarray, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """A document's part in a sample, cut where loss begins and ends."""
    edges = [0, *(np.flatnonzero(np.diff(is_label)) + 1).tolist(), len(ids)]
    return {
        "document": piece.document,
        "first_token": piece.start,
        "tokens": piece.tokens,
        "loss_tokens": int(is_label.sum()),
        "parts": [
            {
                "loss": bool(is_label[start]),
                "ids": ids[start:end].tolist(),
                "text": decode_part(tokenizer, ids.tolist(), start, end),
            }
            for start, end in zip(edges[:-1], edges[1:], strict=True)
            if end > start
        ],
    }


def render_batch(facts: dict[str, Any]) -> Group:
    """The facts for a rich console: text that carries loss is bright, the rest dim."""
    parts = [
        f"[bold]iteration {facts['iteration']}[/] of {escape(facts['road'])}, stage "
        f"{escape(facts['stage'])}: {facts['samples_in_step']} samples of "
        f"{facts['sequence_length']:,} tokens, {len(facts['samples'])} shown; dim text carries "
        f"no loss"
    ]
    if facts["tokenizer_at"] is None:
        parts.append("no tokenizer found; give --tokenizer to see text instead of ids")
    for sample in facts["samples"]:
        parts.append(
            f"\n[bold]sample {sample['sample']}[/] from {escape(sample['source'])}: "
            f"{sample['tokens']:,} tokens, {sample['loss_tokens']:,} carry loss, "
            f"{sample['padding']:,} of padding"
        )
        for document in sample["documents"]:
            parts.append(_render_document(document))
    return Group(*parts)


def _render_document(document: dict[str, Any]) -> str:
    named = f" {document['id']}" if document["id"] is not None else ""
    first, end = document["first_token"], document["first_token"] + document["tokens"]
    title = (
        f"document {document['document']}{named}, epoch {document['epoch']}, tokens {first:,} to "
        f"{end:,}"
    )
    text = "".join(
        ("" if part["loss"] else "[dim]")
        + escape(part["text"] if part["text"] is not None else f"{part['ids']}")
        + ("" if part["loss"] else "[/dim]")
        for part in document["parts"]
    )
    return f"  [cyan]{escape(title)}[/]\n{_render_origin(document['origin'])}{text}"


def _render_origin(origin: dict[str, Any] | None) -> str:
    if origin is None:
        return ""
    same = {True: "its ids are the same again", None: "not tokenized again"}.get(
        origin["retokenized_equal"], "[red]ITS IDS ARE OTHERS NOW[/]"
    )
    why = f" ({escape(origin['why'])})" if origin["why"] else ""
    record = escape(json.dumps(origin["record"], ensure_ascii=False)) if origin["record"] else ""
    return f"  [cyan]{escape(origin['file'])}, line {origin['line']:,}[/]: {same}{why}\n" + (
        f"  [cyan]{record}[/]\n" if record else ""
    )
