"""One optimizer step: zero, forward and backward through core's schedule, clip, step.

`forward_step` is handed to Megatron-Core's schedule, which calls it once per micro-batch and per
virtual stage of this rank, and calls the loss it returns on the last pipeline stage only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_math.device.open import Device
from megatron_math.model.experts import Balance
from megatron_math.model.fp8 import begin_step, without_fp8
from megatron_math.train.feed import Feed, MicroBatch
from megatron_math.train.gauge import Phases
from megatron_math.train.guards import Guards
from megatron_math.train.loss import next_token_loss
from megatron_math.train.optimizer import whole_weights


@dataclass(frozen=True)
class Trainee:
    """What a step works on: model chunks of this rank, optimizer, data, where it all lives."""

    models: Sequence[Any]
    optimizer: Any
    feed: Feed
    device: Device
    balance: Balance | None = None
    """Of a model with experts."""
    phases: Phases = field(default_factory=Phases)
    guards: Guards | None = None


@dataclass(frozen=True)
class StepResult:
    """Losses are None on ranks that do not hold the last pipeline stage."""

    loss: float | None
    source_losses: dict[str, float]
    source_tokens: dict[str, int]
    grad_norm: float
    num_tokens: int
    balance_loss: float | None = None
    """Of models with experts: 1 where all have equal work; see `model/experts.py`."""
    loss_scale: float = 1.0
    is_skipped: bool = False
    """A gradient overflowed in fp16, so that the weights stayed; the norm is 0 then."""
    shadow_loss: float | None = None
    """The same loss computed without FP8, where that was asked."""


def train_step(
    trainee: Trainee,
    iteration: int,
    *,
    lr: float,
    weight_decay: float,
    with_shadow: bool = False,
    again: bool = False,
) -> StepResult:
    """Run global step `iteration` (from 0) at rate `lr` and change the weights.

    again: of a step that the guards refused (`StepRefused`, raised here before weights change).
    """
    feed, guards = trainee.feed, trainee.guards
    with trainee.phases("data"):
        microbatches = feed.again(iteration) if again else feed.microbatches(iteration)
    shadow = None
    if with_shadow:
        with trainee.phases("shadow"):
            shadow = _shadow_step(trainee, microbatches)
    begin_step(trainee.models)
    for model in trainee.models:
        model.zero_grad_buffer()
    trainee.optimizer.zero_grad()
    if trainee.balance is not None:
        _begin_balance(trainee.balance, microbatches, trainee.device)
    with trainee.phases("forward_backward"):
        report_2K = _run(trainee, microbatches, forward_only=False)
    for group in trainee.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)
    loss_scale = float(trainee.optimizer.get_loss_scale())  # before it changes
    result = _result(trainee, report_2K, 0.0)
    if guards is not None:
        guards.measured(result.loss, microbatches)
    with trainee.phases("optimizer"):
        is_done, grad_norm, _ = trainee.optimizer.step()
    if guards is not None:
        with trainee.phases("guards"):
            guards.stepped()
    if trainee.balance is not None:
        num_layers = trainee.models[0].config.num_layers
        result = replace(result, balance_loss=trainee.balance.mean(num_layers))
    return replace(
        result,
        grad_norm=float(grad_norm or 0.0),
        loss_scale=loss_scale,
        is_skipped=not is_done,
        shadow_loss=shadow.loss if shadow is not None else None,
    )


def _shadow_step(trainee: Trainee, microbatches: list[MicroBatch]) -> StepResult:
    """The loss of a step to come without FP8; nothing that training uses is touched."""
    with whole_weights(trainee.models), without_fp8(trainee.models):
        return _evaluate(trainee, microbatches)


def _begin_balance(balance: Balance, microbatches: list[MicroBatch], device: Device) -> None:
    num_loss = torch.stack([batch.loss_mask_BP.sum() for batch in microbatches]).sum()
    padding = [batch.padding_BP for batch in microbatches if batch.padding_BP is not None]
    assert len(padding) == len(microbatches), "Feed(marks_padding=True) says what is padding"
    num_real = torch.stack([(~padding_BP).sum() for padding_BP in padding]).sum()
    balance.begin_step(num_loss, num_real, device.data_group)


def validation_step(trainee: Trainee, source: str, num_samples: int) -> StepResult:
    """The loss on held-out samples of one source; weights stay as they are."""
    return _evaluate(trainee, list(trainee.feed.validation(source, num_samples)))


def _evaluate(trainee: Trainee, microbatches: list[MicroBatch]) -> StepResult:
    for model in trainee.models:
        model.eval()
    with torch.no_grad():
        report_2K = _run(trainee, microbatches, forward_only=True)
    for model in trainee.models:
        model.train()
    return _result(trainee, report_2K, 0.0)


def _run(
    trainee: Trainee, microbatches: list[MicroBatch], *, forward_only: bool
) -> torch.Tensor | None:
    """Forward (and backward) over the micro-batches; the summed report on the last stage."""
    forward_step = partial(_forward_step, num_sources=len(trainee.feed.sources))
    iterators = [iter(microbatches) for _ in trainee.models]
    reports = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=list(trainee.models),
        num_microbatches=len(microbatches),
        seq_length=microbatches[0].document_ids_BS.size(1),  # core cuts it by the context ranks
        micro_batch_size=microbatches[0].tokens_BP.size(0),
        forward_only=forward_only,
    )
    if not trainee.device.is_last_stage:
        return None
    report_2K = torch.stack(reports).sum(0)
    torch.distributed.all_reduce(report_2K, group=trainee.device.data_group)
    return report_2K


def _forward_step(
    data_iterator: Iterator[MicroBatch], model: Any, *, num_sources: int
) -> tuple[torch.Tensor, Any]:
    batch = next(data_iterator)
    output = model(
        batch.tokens_BP,
        batch.position_ids_BP,
        batch.document_ids_BS,
        labels=batch.labels_BP,
        padding_mask=batch.padding_BP,
        loss_mask=batch.loss_mask_BP,
    )
    loss = partial(
        next_token_loss,
        loss_mask_BP=batch.loss_mask_BP,
        source_B=batch.source_B,
        num_sources=num_sources,
    )
    return output, loss


def _result(trainee: Trainee, report_2K: torch.Tensor | None, grad_norm: float) -> StepResult:
    if report_2K is None:
        return StepResult(None, {}, {}, grad_norm, 0)
    sums, counts = report_2K.view(2, -1).tolist()
    total = sum(counts)
    present = [number for number, count in enumerate(counts) if count]
    names = trainee.feed.sources
    return StepResult(
        loss=sum(sums) / total if total else None,
        source_losses={names[k]: sums[k] / counts[k] for k in present},
        source_tokens={names[k]: int(counts[k]) for k in present},
        grad_norm=grad_norm,
        num_tokens=int(total),
    )
