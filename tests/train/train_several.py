"""Run by tests in several processes at once: one road after another is tried alone, then trained.

Usage: train_several.py JOBS.json, a list of [yaml, overrides, runs]. Loading the libraries takes
longer than the steps, so layouts of as many processes share them. A run may stop on request. A
fourth entry is Python to run first, a fault for a control: `patch(where, name, what)` lasts as
long as its road.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import torch

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.checkpoint.folders import open_checkpoint
from megatron_math.checkpoint.state import load_weights
from megatron_math.device.open import Device, open_device
from megatron_math.model.build import build_model
from megatron_math.model.context import own_tokens
from megatron_math.train.feed import MicroBatch
from megatron_math.train.optimizer import wrap_for_training
from megatron_math.train.run import read_order, run
from megatron_math.train.step import Trainee, validation_step

BOUNDS = (0, 9, 10, 33, 52, 64)
"""Where the documents of a row begin; the last one ends it."""


class Documents:
    """A feed of one random row: packed, its documents alone, or as if it were one document."""

    sources = ("row",)

    def __init__(self, device: Device, context_size: int, vocab_size: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.tokens_S = torch.randint(0, vocab_size, (BOUNDS[-1],), generator=generator)
        self.context = device.context_rank, context_size

    def validation(self, way: str, number: int) -> Iterator[MicroBatch]:
        """The loss of document `number`, twice; the labels are the tokens themselves."""
        begin, end = list(pairwise(BOUNDS))[number]
        tokens_S, place = self.tokens_S, slice(begin, end)
        ids_S = torch.cat([torch.full((b - a,), n) for n, (a, b) in enumerate(pairwise(BOUNDS))])
        if way == "alone":  # at the front of a row that is otherwise another document
            place = slice(0, end - begin)
            tokens_S = torch.zeros_like(tokens_S)
            tokens_S[place] = self.tokens_S[begin:end]
            ids_S = torch.ones_like(ids_S)
            ids_S[place] = 0
        elif way == "across":
            ids_S = torch.zeros_like(ids_S)
        mask_S = torch.zeros(len(tokens_S))
        mask_S[place] = 1
        batch = MicroBatch(
            tokens_BP=own_tokens(tokens_S[None], *self.context),
            labels_BP=own_tokens(tokens_S[None], *self.context),
            loss_mask_BP=own_tokens(mask_S[None], *self.context),
            position_ids_BP=own_tokens(torch.arange(len(tokens_S))[None], *self.context),
            document_ids_BS=ids_S[None].int(),
            source_B=torch.zeros(1, dtype=torch.int64),
        )
        yield from (batch, batch)  # as many as virtual stages want


def try_documents(road: Road) -> None:
    """Write the losses of packed documents, alone and across them into documents.json."""
    order = read_order(road)
    dtype = getattr(torch, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[
        order.precision.dtype
    ])  # fmt: skip
    with open_device(order.parallel.grid, road.seed) as device:
        models = build_model(
            order.model,
            grid=order.parallel.grid,
            dtype=dtype,
            sequence_length=BOUNDS[-1],
            stage_layers=(order.parallel.first_stage_layers, order.parallel.last_stage_layers),
        )
        load_weights(models, open_checkpoint(order.start).folder)
        feed = Documents(device, order.parallel.context, order.model.vocab_size)
        trainee = Trainee(wrap_for_training(models, dtype, overlap=False), None, feed, device)
        losses = {
            way: [validation_step(trainee, way, number).loss for number in range(len(BOUNDS) - 1)]
            for way in ("packed", "alone", "across")
        }
        if device.is_last_rank:
            (road.runs / "documents.json").write_text(json.dumps(losses))


def main() -> None:
    for yaml, overrides, runs, *fault in json.loads(Path(sys.argv[1]).read_text()):
        road = Road.load(Path(yaml), overrides, Path(runs))
        with contextlib.ExitStack() as stack:
            for source in fault:
                exec(source, {"patch": partial(_patch, stack)})
            if not fault:
                try_documents(road)
            with contextlib.suppress(StoppedOnRequest):
                run(road)


def _patch(stack: contextlib.ExitStack, where: object, name: str, what: object) -> None:
    stack.enter_context(mock.patch.object(where, name, what))


if __name__ == "__main__":
    main()
    os._exit(0)
