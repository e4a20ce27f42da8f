"""Core's wrappers around the model: half precision, data parallel, distributed optimizer."""

from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module

from megatron_math.train.config import TrainConfig


def wrap_for_training(models: list[Any], dtype: torch.dtype) -> list[Any]:
    """Half-precision wrapper when asked, then data parallel with fp32 gradients."""
    if dtype != torch.float32:
        models = [Float16Module(model.config, model) for model in models]
    ddp_config = DistributedDataParallelConfig(
        # A state saved with the distributed optimizer does not load without it: always use it,
        # also with one replica, so that every checkpoint continues in every layout.
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        # Losses are sums over tokens; the step divides once, by the global token count.
        average_in_collective=False,
    )
    wrapped = [
        DistributedDataParallel(
            config=model.config, ddp_config=ddp_config, module=model, disable_bucketing=number > 0
        )
        for number, model in enumerate(models)
    ]
    for model in wrapped:
        model.config.finalize_model_grads_func = finalize_model_grads
    return wrapped


def build_optimizer(models: list[Any], config: TrainConfig, dtype: torch.dtype) -> Any:
    """AdamW, sharded over the replicas, with fp32 master weights; norms carry no decay."""
    return get_megatron_optimizer(
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
            params_dtype=dtype,
            use_distributed_optimizer=True,
        ),
        models,
        # Core's extra gloo groups serve checkpoint formats that are not used here.
        use_gloo_process_groups=False,
    )
