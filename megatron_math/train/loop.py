"""The training loop: step, log, validate now and then, save now and then, stop when asked."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.log import log
from megatron_math.checkpoint.folders import go_back, retire, temporary_name
from megatron_math.checkpoint.saver import Extras, Saver
from megatron_math.checkpoint.state import load_training_state, load_weights
from megatron_math.device.gauge import peak_memory
from megatron_math.device.open import Device
from megatron_math.device.optimizer_state import reset_optimizer_state
from megatron_math.model.flops import AttentionCount
from megatron_math.model.fp8_config import Fp8Config
from megatron_math.train.config import CheckpointConfig, TrainConfig
from megatron_math.train.gauge import Profile, milliseconds
from megatron_math.train.guards import GuardStop, RollBack
from megatron_math.train.lookout import Lookout
from megatron_math.train.metrics import Metrics
from megatron_math.train.optimizer import whole_weights
from megatron_math.train.stages import (
    VALIDATION,
    TrainStage,
    best_iterations,
    chosen,
    kept_for_later,
    stop_iteration,
)
from megatron_math.train.step import StepResult, Trainee, train_step, validation_step
from megatron_math.train.stop import stop_signals

SHADOW_WARNING = 0.005
"""Relative gap of the loss in FP8 to that without it, above which a line is logged."""

_PATIENCE_SECONDS = 0.05
"""Between two questions whether all ranks have written."""


class CheckpointLostError(RuntimeError):
    """What had to be on disk could not be written."""


@dataclass
class Progress:
    """Where the run is; saved in every checkpoint. Counts are since the run's first step."""

    iteration: int = 0
    consumed_tokens: int = 0
    stopped_by: int = 0
    """The signal that a rank got; 0: none."""


@dataclass(frozen=True)
class Run:
    """Everything the loop needs beside the trainee. `metrics` is None but on the last rank."""

    trainee: Trainee
    train: TrainConfig
    checkpoint: CheckpointConfig
    base: Callable[[], Path]
    """The weights that the run began with: a folder of a checkpoint, verified. Collective."""
    saver: Saver
    metrics: Metrics | None
    fp8: Fp8Config | None
    flops_per_token: Callable[[int, AttentionCount], float]
    """Of a sample of so many tokens, attention counted so."""
    peak: tuple[str, float] | None
    """Precision, and dense FLOP/s of one device in it, where that is known."""
    profile: Profile
    lookout: Lookout
    extras: Extras
    """What every checkpoint has beside the state: model.json, the tokenizer."""


def train_loop(run: Run, progress: Progress) -> bool:
    """Train from `progress` to the plan's end. False when stopped on request before it."""
    feed = run.trainee.feed
    stop = stop_signals(run.trainee.device.barrier)
    while True:
        try:
            with feed.reading_ahead(progress.iteration):
                _steps(run, progress, stop)
            break
        except RollBack as back:
            roll_back(run, progress, back)
        except GuardStop:
            if run.saver.copies is not None:
                run.saver.copies.disown()
            raise
    run.profile.close(progress.iteration)
    run.trainee.phases.take()
    return progress.iteration == feed.num_iterations


def _steps(run: Run, progress: Progress, stop: list[int]) -> None:
    """Steps, validations and checkpoints from `progress` to the end, or until it is to stop."""
    feed, stop_at = run.trainee.feed, stop_iteration(run.train, run.trainee.feed.stages)
    ends = {stage.end for stage in feed.stages}
    is_chosen_from = run.checkpoint.keep_best > 0 or any(
        stage.start.weights == "best" for stage in feed.stages
    )
    if progress.iteration == feed.first_iteration:
        validate(run, progress)
    while progress.iteration < feed.num_iterations:
        begin_stage(run, progress)
        with run.profile.step(progress.iteration):
            progress.stopped_by = one_iteration(run, progress, stop)
        at_end = progress.iteration in ends
        stopping = bool(progress.stopped_by) or progress.iteration == stop_at
        saving = at_end or stopping or progress.iteration % run.checkpoint.interval == 0
        loss = None
        due = at_end or progress.iteration % run.train.validation_interval == 0
        if due or (saving and is_chosen_from):
            loss = validate(run, progress)
        if saving:
            with run.trainee.phases("save"):
                save(run, progress, loss)
        elif run.saver.copies is not None and run.saver.copies.is_due(progress.iteration):
            with run.trainee.phases("save"):
                begin_writing(run, progress, as_copy=True)
        if progress.iteration == feed.first_iteration + 1 and not run.train.mock_data:
            run.saver.prepare(run.trainee.models, run.trainee.optimizer)
        if stopping:
            break
    if not run.train.mock_data:
        with run.trainee.phases("save"):
            is_saved = settle(run)
        if not is_saved:
            raise CheckpointLostError(
                f"iteration {progress.iteration} could not be saved; what was saved before is "
                f"in {run.saver.save}: make room there, and the same command goes on from it"
            )


def roll_back(run: Run, progress: Progress, back: RollBack) -> None:
    """Load the newest good checkpoint of `back.iteration` or before, and leave out its steps.

    Raises GuardStop where there is none: a new launch then begins as this one did, and leaves the
    same steps out.
    """
    trainee, saver = run.trainee, run.saver
    guards = trainee.guards
    assert guards is not None
    device, begin = trainee.device, trainee.feed.first_iteration
    found = None
    if not run.train.mock_data:
        settle(run)
        if saver.copies is not None:
            saver.copies.disown()
        found = device.from_first_rank(lambda: go_back(saver.save, back.iteration))
    to = begin if found is None else found.iteration
    assert to is not None
    if back.leave_out:
        guards.leave_out_more(back.leave_out, back.why, to)
    if found is None:
        raise GuardStop(
            f"{back.why}; there is no checkpoint of iteration {back.iteration} to go to"
        )
    with whole_weights(trainee.models):
        load_training_state(trainee.models, trainee.optimizer, found.folder)
    guards.forget()
    state = found.read("data_state.json")
    progress.iteration, progress.consumed_tokens = state["iteration"], state["consumed_tokens"]
    if run.metrics is not None:
        run.metrics.cut(progress.iteration)
    guards.remember(usual_rows(run.metrics, device, guards.num_usual))
    guards.tell("rolled_back", f"{back.why}; went back to iteration {to}")


def usual_rows(metrics: Metrics | None, device: Device, num_rows: int) -> list[dict[str, Any]]:
    """The newest rows of metrics.jsonl, on all ranks: what `Guards.remember` is to be told."""
    rows: list[Any] = [None if metrics is None else metrics.newest(num_rows)]
    torch.distributed.broadcast_object_list(rows, src=device.world - 1)
    return rows[0]


def begin_stage(run: Run, progress: Progress) -> None:
    """Before a stage's first step: weights and moments as `train.stages` asks for.

    A run that was stopped at the border comes through here again and finds the same checkpoints.
    """
    feed = run.trainee.feed
    stage = feed.stage_at(progress.iteration)
    start, is_fresh = stage.start, stage.start.optimizer == "fresh"
    if progress.iteration != stage.first or (start.weights == "last" and not is_fresh):
        return
    if run.train.mock_data:
        return  # without checkpoints there is nothing to begin with
    models, optimizer = run.trainee.models, run.trainee.optimizer
    with whole_weights(models):
        if start.weights == "base":
            load_weights(models, run.base())
        elif start.weights == "best":
            settle(run)
            start_from = chosen(run.saver.save, feed.stages, feed.stages.index(stage))
            log.info("stage %s begins with %s", stage.name, start_from.folder.name)
            load_training_state(models, optimizer, start_from.folder)
        if is_fresh:
            reset_optimizer_state(optimizer)
    if run.trainee.guards is not None:
        run.trainee.guards.forget()


def one_iteration(run: Run, progress: Progress, stop: list[int]) -> int:
    """One optimizer step and its line in metrics.jsonl; returns a signal that a rank got, or 0."""
    between = run.trainee.phases.take()
    started = time.perf_counter()
    stage = run.trainee.feed.stage_at(progress.iteration)
    lr = stage.learning_rate(progress.iteration)
    result = guarded_step(run, progress.iteration, stage, lr)
    phases = run.trainee.phases.take()  # waits for the device
    seconds = time.perf_counter() - started
    progress.iteration += 1
    run.lookout.stepped(progress.iteration, phases, seconds)
    asked_by, memory = _agreed(max(*stop, run.lookout.stop_number, 0), run)
    gauged = memory | {
        "phases_ms": milliseconds(phases, seconds),
        **({"between_ms": milliseconds(between)} if between else {}),
    }
    if run.metrics is not None and result is not None:
        progress.consumed_tokens += result.num_tokens
        row = _row(run, progress, result, lr=lr, seconds=seconds, gauged=gauged)
        run.metrics.step(row, global_batch_size=stage.train.global_batch_size)
    return asked_by


def guarded_step(run: Run, iteration: int, stage: TrainStage, lr: float) -> StepResult | None:
    """The step as the guards let it be; None where it is left out, now or since it was before."""
    guards = run.trainee.guards
    every = run.fp8.shadow_interval if run.fp8 is not None else None

    def attempt(again: bool) -> StepResult:
        return train_step(
            run.trainee,
            iteration,
            lr=lr,
            weight_decay=stage.train.weight_decay,
            with_shadow=every is not None and (iteration + 1) % every == 0,
            again=again,
        )

    if guards is None:
        return attempt(False)
    if iteration in guards.left_out.steps:
        run.trainee.feed.microbatches(iteration)  # what reads ahead goes step by step
        return None
    return guards.take(iteration, attempt)


def _row(
    run: Run,
    progress: Progress,
    result: StepResult,
    *,
    lr: float,
    seconds: float,
    gauged: dict[str, Any],
) -> dict[str, Any]:
    feed = run.trainee.feed
    stage = feed.stage_at(progress.iteration - 1)
    sequence_length = feed.sequence_length(progress.iteration - 1)
    tokens = stage.train.global_batch_size * sequence_length
    rate = tokens / seconds / run.trainee.device.world
    flops, flops_full = (
        rate * run.flops_per_token(sequence_length, causal) for causal in ("half", "full")
    )
    samples = run.trainee.guards.samples if run.trainee.guards is not None else None
    mfu = {} if run.peak is None else {"mfu": flops / run.peak[1], "mfu_peak": run.peak[0]}
    return {
        "iteration": progress.iteration,
        "stage": stage.name,
        "consumed_samples": feed.consumed_samples(progress.iteration),
        "consumed_tokens": progress.consumed_tokens,
        "lm loss": result.loss,
        **{f"loss/{source}": loss for source, loss in result.source_losses.items()},
        **({} if result.balance_loss is None else {"load_balancing_loss": result.balance_loss}),
        "grad-norm": result.grad_norm,
        **({} if samples is None else {"samples": f"{samples:016x}"}),
        "learning-rate": lr,
        **({"loss-scale": result.loss_scale} if result.loss_scale != 1.0 else {}),
        **({"skipped": True} if result.is_skipped else {}),
        **({"fp8": run.fp8.recipe} if run.fp8 is not None else {}),
        **_loss_gap(result, progress.iteration),
        "elapsed_ms": round(seconds * 1e3, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_second_per_process": round(rate, 1),
        "tflops": round(flops / 1e12, 6),
        "tflops_full": round(flops_full / 1e12, 6),
        **mfu,
        **gauged,
        "data_wait_ms": round(feed.wait_seconds * 1e3, 3),
    }


def _loss_gap(result: StepResult, iteration: int) -> dict[str, float]:
    if result.shadow_loss is None or result.loss is None:
        return {}
    gap = (result.loss - result.shadow_loss) / result.shadow_loss
    if not abs(gap) < SHADOW_WARNING:  # NaN, too
        log.warning(
            "iteration %d: the loss in FP8 is %.4f and %.4f without (%+.2f %%): look at "
            "precision.fp8, or remove it, which needs no new start",
            iteration, result.loss, result.shadow_loss, 100 * gap,
        )  # fmt: skip
    return {"fp8/loss-gap": gap}


def validate(run: Run, progress: Progress) -> float | None:
    """Held-out loss of every source; its mean over all tokens, None where it is not known here."""
    if run.train.validation_samples == 0 or run.train.mock_data:
        return None
    results = {}
    with run.trainee.phases("validation"), whole_weights(run.trainee.models):
        for source in run.trainee.feed.sources:
            result = validation_step(run.trainee, source, run.train.validation_samples)
            if result.loss is not None:
                results[source] = (result.loss, result.num_tokens)
    if run.metrics is not None:
        samples = run.trainee.feed.consumed_samples(progress.iteration)
        run.metrics.validation(progress.iteration, samples, results)
    num_tokens = sum(count for _, count in results.values())
    return sum(loss * count for loss, count in results.values()) / num_tokens if results else None


def save(run: Run, progress: Progress, validation_loss: float | None) -> None:
    """Copy the state and have it written as a checkpoint, while training goes on if it may."""
    if run.train.mock_data:
        return
    if run.saver.pending is not None:
        log.info("iteration %d is still being written: waiting for it", run.saver.pending)
    settle(run)
    run.lookout.saving()
    begin_writing(run, progress, validation_loss)


def begin_writing(
    run: Run, progress: Progress, validation_loss: float | None = None, *, as_copy: bool = False
) -> None:
    """Copy the state for the writers; as_copy: for a local copy. Nothing is being written."""
    device, trainee = run.trainee.device, run.trainee
    # Tokens are counted where the losses are: on the last rank.
    counted = torch.tensor(
        [progress.consumed_tokens, math.nan if validation_loss is None else validation_loss],
        dtype=torch.float64,
        device=device.torch_device,
    )
    torch.distributed.broadcast(counted, src=device.world - 1)
    extras = None
    if device.rank == 0:
        tokens, loss = counted.tolist()
        state = trainee.feed.data_state(progress.iteration) | {"consumed_tokens": int(tokens)}
        measured = {} if math.isnan(loss) else {VALIDATION: {"loss": loss}}
        files = {**run.extras.files, "data_state.json": state, **measured}
        extras = Extras(files, run.extras.copies)
    with whole_weights(trainee.models):
        run.saver.start(
            trainee.models, trainee.optimizer, progress.iteration, extras, as_copy=as_copy
        )


def settle(run: Run) -> bool:
    """Wait until what is being written is a checkpoint. Collective.

    False where it could not be written on some rank, now or since the last step.
    """
    device, saver = run.trainee.device, run.saver
    while True:
        saver.poll(_PATIENCE_SECONDS)
        state = [int(saver.pending is not None), -1 if saver.failed is None else saver.failed[0]]
        values = torch.tensor([*state, *_of_copy(saver)], device=device.torch_device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        is_pending, failed, *of_copy = values.tolist()
        if saver.copies is not None:
            saver.copies.told(*of_copy)
        if failed >= 0:
            _drop(run, failed)
            return False
        if not is_pending:
            _published(run)
            return True


def _drop(run: Run, failed: int) -> None:
    """A checkpoint that could not be written on some rank is given up on all."""
    saver = run.saver
    if saver.failed is not None:
        log.error("iteration %d could not be saved (%s); training goes on", *saver.failed)
    saver.give_up()
    saver.failed = None
    if run.trainee.device.rank == 0:
        saver.remove([temporary_name(saver.save, failed, saver.launch)])


def _published(run: Run) -> None:
    """On rank 0: take away what a new checkpoint makes old."""
    saver, iteration = run.saver, run.saver.published
    if iteration is None:
        return
    saver.published = None
    kept = set(kept_for_later(saver.save, run.trainee.feed.stages, iteration))
    kept.update(best_iterations(saver.save, run.checkpoint.keep_best))
    if (every := run.checkpoint.keep_every) is not None:
        kept.update(range(0, iteration + 1, every))
    saver.remove(retire(saver.save, keep=run.checkpoint.keep, always=frozenset(kept)))


def _agreed(signal_number: int, run: Run) -> tuple[int, dict[str, int]]:
    """(a signal of any rank, 0 for none; peak memory of the fullest rank), in one message.

    With it goes what became of the checkpoint that is being written.
    """
    device, saver = run.trainee.device, run.saver
    saver.poll()
    memory = peak_memory(device)
    failed = -1 if saver.failed is None else saver.failed[0]
    own = [signal_number, failed, *memory.values(), *_of_copy(saver)]
    values = torch.tensor(own, device=device.torch_device)
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    asked_by, failed, *rest = values.tolist()
    if saver.copies is not None:
        saver.copies.told(*rest[len(memory) :])
    if failed >= 0:
        _drop(run, failed)
    _published(run)
    return asked_by, dict(zip(memory, rest, strict=False))


def _of_copy(saver: Saver) -> list[int]:
    if saver.copies is None:
        return []
    return saver.copies.state(is_pending=saver.pending is not None)
