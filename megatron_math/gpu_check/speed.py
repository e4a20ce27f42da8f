"""Tokens/s and memory of whole training steps, with and without safety checks.

A step is that of a training run: core's schedule over all micro-batches, clipping, the distributed
optimizer. Each row of tokens is one document, as in the published figures. Safety checks are core's
search for NaN and infinity in the gradients and a look at loss and norm; logging, data loading and
checkpoints are outside.
"""

import math
import statistics
import time
from dataclasses import replace
from typing import Any

from megatron_math.device.capacity import (
    device_facts,
    forget_peak,
    peak_memory,
    wait_for_device,
)
from megatron_math.device.grid import Grid
from megatron_math.device.kernels import choose_adam
from megatron_math.device.open import device_kind, open_device
from megatron_math.estimate.hardware import GPUS, Gpu, load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import stage_memory
from megatron_math.gpu_check.parity import without_te
from megatron_math.gpu_check.rows import Row, Save, skipped
from megatron_math.gpu_check.settings import Setup, SpeedCase
from megatron_math.gpu_check.trainee import build_trainee, model_config
from megatron_math.model.flops import training_flops_per_token
from megatron_math.train.optimizer import check_gradients
from megatron_math.train.step import Trainee, train_step

WARM_UP = 3


def rung_setup(case: SpeedCase, number: int) -> Setup:
    """The case on one of its rungs: bf16 state where Transformer Engine's Adam is there."""
    layers, recompute = case.rungs[number]
    return replace(
        case.setup,
        overrides={**case.setup.overrides, "num_layers": layers},
        recompute=recompute,
        half_state=without_te() is None and choose_adam().used,
    )


def expected_bytes(setup: Setup) -> int:
    """What `estimate` says that this step takes at its peak."""
    with_te = without_te() is None
    layout = Layout(
        gpus=1,
        sequence_length=setup.sequence_length,
        global_batch=setup.micro_batch * setup.micro_batches,
        micro_batch=setup.micro_batch,
        recompute=setup.recompute,
        precision="fp8" if setup.fp8 else "bf16",
        gradient_bytes=2 if setup.half_state else 4,
        master_bytes=2 if setup.half_state else 4,
        moment_bytes=2 if setup.half_state else 4,
        fused=with_te,
        loss="parallel" if with_te else "fused",
    )
    return stage_memory(model_config(setup), layout, 0).allocated


def lacking(case: SpeedCase) -> str | None:
    """Why the case cannot run here; None where it can."""
    if case.setup.fp8 is None:
        return None
    return without_te()


def measure(case: SpeedCase, number: int, save: Save) -> None:
    """The first rung from `number` on that is expected to fit, in the last row.

    One that does not fit after all raises torch's OutOfMemoryError.
    """
    reason = lacking(case)
    if reason is not None:
        save([skipped(case.precision, reason)])
        return
    rows: list[Row] = []
    memory = device_facts()["memory_bytes"]
    for rung in range(number, len(case.rungs)):
        setup = rung_setup(case, rung)
        expected = expected_bytes(setup)
        what = f"{case.rungs[rung][0]} layers, recomputation {setup.recompute}"
        if expected <= 1.02 * memory:  # the estimate is not sure to a few percent
            break
        rows.append(skipped(what, f"estimate: {expected / 1e9:.0f} GB of {memory / 1e9:.0f}"))
        save(rows)
    else:
        return
    about: Row = {"what": what, "rung": rung, "expected_bytes": expected}
    save([*rows, about])  # should it not come back
    started = time.perf_counter()
    with open_device(Grid(), seed=1) as device:
        trainee = build_trainee(setup, device, lr=1e-4, steps=2)
        about["built_seconds"] = time.perf_counter() - started
        save([*rows, about])
        measured = _row(case, setup, _timed(case, trainee))
    save([*rows, about | measured])


def _timed(case: SpeedCase, trainee: Trainee) -> dict[bool, list[float]]:
    """Seconds of each step, by whether checks were on; the order changes from pair to pair."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for step in range(WARM_UP):
        _step(trainee, step, checks=True)
    forget_peak()
    started = time.perf_counter()
    step = WARM_UP
    for pair in range(case.pairs):
        if pair >= 2 and time.perf_counter() - started > case.seconds:
            break
        for checks in (pair % 2 == 0, pair % 2 == 1):
            seconds[checks].append(_step(trainee, step, checks=checks))
            step += 1
    return seconds


def _step(trainee: Trainee, step: int, *, checks: bool) -> float:
    check_gradients(trainee.models, on=checks)
    wait_for_device()
    started = time.perf_counter()
    result = train_step(trainee, step, lr=1e-4, weight_decay=0.1)
    wait_for_device()
    taken = time.perf_counter() - started
    if checks and not (math.isfinite(result.loss or math.nan) and math.isfinite(result.grad_norm)):
        raise FloatingPointError(f"step {step}: loss {result.loss}, norm {result.grad_norm}")
    return taken


def _row(case: SpeedCase, setup: Setup, seconds: dict[bool, list[float]]) -> Row:
    model = model_config(setup)
    tokens = setup.micro_batch * setup.micro_batches * setup.sequence_length
    rates = {on: tokens / statistics.median(taken) for on, taken in seconds.items()}
    causal, full = (
        training_flops_per_token(model, setup.sequence_length, kind) for kind in ("half", "full")
    )
    ratios = [on / off for on, off in zip(seconds[True], seconds[False], strict=True)]
    memory = peak_memory()
    row: Row = {
        "tokens_per_second": rates[True],
        "tokens_per_second_without_checks": rates[False],
        "checks_share": statistics.median(ratios) - 1,
        "seconds_with_checks": seconds[True],
        "seconds_without_checks": seconds[False],
        "layers": model.num_layers,
        "all_layers": case.all_layers,
        "parameters": model.num_parameters(),
        "sequence_length": setup.sequence_length,
        "micro_batch": setup.micro_batch,
        "micro_batches": setup.micro_batches,
        "spec": "te" if without_te() is None else "torch",
        "gradients_and_moments": "bf16" if setup.half_state else "fp32",
        "recompute": setup.recompute,
        "tflops_causal": rates[True] * causal / 1e12,
        "tflops_full": rates[True] * full / 1e12,
        "peak_allocated_bytes": memory["allocated"],
        "peak_reserved_bytes": memory["reserved"],
    }
    gpu = known_gpu(device_facts()["name"]) if device_kind() != "cpu" else None
    if gpu is not None and case.precision in gpu.peak_flops:
        row["mfu"] = rates[True] * causal / gpu.peak_flops[case.precision]
        row["mfu_of"] = f"{case.precision} peak of {gpu.name}, causal half of attention"
    if model.num_layers < case.all_layers:
        whole = model_config(
            replace(setup, overrides={**setup.overrides, "num_layers": case.all_layers})
        )
        share = causal / training_flops_per_token(whole, setup.sequence_length, "half")
        row["extrapolated_tokens_per_second"] = rates[True] * share
        row["extrapolation"] = (
            f"not measured: {model.num_layers} layers' rate times {share:.3f}, the ratio of the "
            f"FLOPs of a token to those with {case.all_layers} layers"
        )
    return row


def known_gpu(name: str) -> Gpu | None:
    """The data sheet of a GPU by the name that its driver gives; None where there is none."""
    words: list[Any] = name.lower().replace("-", " ").split()
    return next((load_gpu(gpu) for gpu in GPUS if gpu in words), None)
