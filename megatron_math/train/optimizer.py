"""Core's wrappers around the model: half precision, data parallel, distributed optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from megatron_math.device.kernels import choose_adam
from megatron_math.device.optimizer_state import fuse_adam
from megatron_math.train.config import TrainConfig
from megatron_math.train.gauge import Phases

# The loss that is scaled is a sum over tokens: what a mean of 8,192 tokens calls 2^16 is 2^3 here,
# and 2^16 times the gradient of a token's own logit is beyond half precision.
FIRST_LOSS_SCALE = 2.0**10


def wrap_for_training(
    models: list[Any],
    dtype: torch.dtype,
    *,
    overlap: bool,
    fp8_weights: bool = False,
    phases: Phases | None = None,
    half_gradients: bool = False,
) -> list[Any]:
    """Half-precision wrapper when asked, then data parallel with fp32 gradients.

    overlap: a bucket of gradients is sent when its last one is there, and weights are fetched just
    before their layer; `whole_weights` must then be around everything but steps. half_gradients:
    gradients are summed in `dtype`. phases: told how long gradients are reduced behind the backward
    pass.
    """
    if dtype != torch.float32:
        models = [Float16Module(model.config, model) for model in models]
    ddp_config = DistributedDataParallelConfig(
        # A state saved with the distributed optimizer does not load without it: always use it,
        # also with one replica, so that every checkpoint continues in every layout.
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=not half_gradients,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        fp8_param_gather=fp8_weights,
        # Losses are sums over tokens; the step divides once, by the global token count.
        average_in_collective=False,
    )
    finalize = finalize_model_grads
    if phases is not None:
        finalize = phases.timed("reduce", finalize)
    wrapped = [
        DistributedDataParallel(
            config=model.config, ddp_config=ddp_config, module=model, disable_bucketing=number > 0
        )
        for number, model in enumerate(models)
    ]
    for model in wrapped:
        model.config.finalize_model_grads_func = finalize
        if overlap:
            each = [(one.no_sync, one.start_grad_sync, one.start_param_sync) for one in wrapped]
            no_sync, grad_sync, param_sync = map(list, zip(*each, strict=True))
            model.config.no_sync_func = no_sync if len(wrapped) > 1 else no_sync[0]
            if len(wrapped) > 1:  # core's interleaved schedule says when
                model.config.grad_sync_func = grad_sync
                model.config.param_sync_func = param_sync
    return wrapped


def check_gradients(models: Sequence[Any], *, on: bool) -> None:
    """From the next step on, core looks for NaN and infinity in the gradients of this rank before
    it sends them (RuntimeError where one is found), or does not."""
    for model in models:
        model.ddp_config.check_for_nan_in_grad = on


@contextmanager
def whole_weights(models: Sequence[Any]) -> Iterator[None]:
    """Inside, all weights are those after the last step; without it some are one step old."""
    hooked = [model for model in models if model.use_forward_hook]
    for model in hooked:
        model.disable_forward_pre_hook()  # fetches them
    try:
        yield
    finally:
        for model in hooked:
            model.enable_forward_pre_hook()


def build_optimizer(
    models: list[Any],
    config: TrainConfig,
    dtype: torch.dtype,
    *,
    overlap: bool,
    loss_scale: float | None = None,
    fp8_recipe: str | None = None,
    half_moments: bool = False,
) -> Any:
    """AdamW, sharded over the replicas, with fp32 master weights; norms carry no decay.

    In fp16 the loss is scaled, by `loss_scale` or dynamically; see PrecisionConfig. half_moments:
    both moments in bf16, and of the master weights only what bf16 weights lack, 6 bytes a parameter
    for 12; Transformer Engine's Adam alone can do it, RuntimeError without.
    """
    moments: dict[str, Any] = {}
    if half_moments:
        assert dtype == torch.bfloat16, dtype
        moments = {
            "use_precision_aware_optimizer": True,
            "main_grads_dtype": dtype,
            "exp_avg_dtype": dtype,
            "exp_avg_sq_dtype": dtype,
        }
    choose_adam()
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            clip_grad=config.clip_grad,
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
            loss_scale=loss_scale,
            initial_loss_scale=FIRST_LOSS_SCALE,
            hysteresis=1,
            params_dtype=dtype,
            use_distributed_optimizer=True,
            overlap_param_gather=overlap,
            fp8_recipe=fp8_recipe,
            **moments,
        ),
        models,
        # Core's extra gloo groups serve checkpoint formats that are not used here.
        use_gloo_process_groups=False,
    )
    fuse_adam(optimizer)
    if dtype == torch.float16:
        for model in models:
            model.config.grad_scale_func = optimizer.scale_loss
    return optimizer
