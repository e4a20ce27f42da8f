"""Run by the tests in several processes: a few steps in one layout after another.

Usage: layouts.py JOB.json; the job names the start checkpoint, the results file and the layouts.
"""

import json
import sys

import torch
import torch.distributed as dist

from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.model.config import ModelConfig

NUM_STEPS, GLOBAL_BATCH, MICRO_BATCH, LENGTH = 3, 8, 2, 16


def batches(step: int):
    """Tokens, document ids and loss mask of one global batch, each [8, 16], the same everywhere."""
    generator = torch.Generator().manual_seed(100 + step)
    shape = (GLOBAL_BATCH, LENGTH)
    tokens = torch.randint(0, 100, shape, generator=generator)
    documents = (torch.rand(shape, generator=generator) < 0.15).cumsum(1).int()
    # Rows differ widely in how many tokens count: averages of averages would be seen.
    keep = torch.linspace(0.2, 1.0, GLOBAL_BATCH)[:, None]
    return tokens, documents, (torch.rand(shape, generator=generator) < keep).float()


def run_layout(job: dict, layout: dict) -> dict | None:
    """Build, load, train; returns {"loss": [...], "norm": [...]} on the last rank."""
    with open_device(Grid(**layout.get("grid", {})), seed=7) as device:
        from megatron.core import dist_checkpointing

        from megatron_math.model.build import build_model

        dtype = getattr(torch, layout.get("dtype", "float32"))
        models = build_model(
            ModelConfig(**job["model"]), grid=device.grid, dtype=dtype, sequence_length=LENGTH
        )
        # All virtual stages in one load: core checks that every shard is asked for once.
        wanted = {str(number): model.sharded_state_dict() for number, model in enumerate(models)}
        loaded = dist_checkpointing.load(wanted, job["start"])
        for number, model in enumerate(models):
            model.load_state_dict(loaded[str(number)], strict=False)
        logits = first_logits(models, job) if device.grid.pipeline == 1 else []
        result = {"logits": logits, **train(device, models, dtype, layout)}
        return result if device.is_last_rank else None


def first_logits(models, job: dict) -> list[float]:
    """Logits of two rows over the un-padded vocabulary, flat; all of them on every rank."""
    from megatron_math.model.gpt import gather_logits

    tokens, documents, _ = (part[:2] for part in batches(0))
    positions = torch.arange(LENGTH).expand_as(tokens)
    with torch.no_grad():
        logits = gather_logits(models[0](tokens, positions, documents), ModelConfig(**job["model"]))
    return logits.float().flatten().tolist()


def train(device, models, dtype, layout) -> dict:
    """`NUM_STEPS` steps of AdamW with clipping and the distributed optimizer."""
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func

    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    chunks = [DistributedDataParallel(model.config, ddp, model) for model in models]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=1e-2,
            clip_grad=0.5,
            use_distributed_optimizer=True,
            params_dtype=dtype,
            bf16=dtype == torch.bfloat16,
        ),
        chunks,
    )
    config = models[0].config
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    if layout.get("drop_all_reduce"):
        config.finalize_model_grads_func = lambda *args, **kwargs: None
    num_micro = GLOBAL_BATCH // MICRO_BATCH // device.data_size
    result: dict = {"loss": [], "norm": []}
    for step in range(NUM_STEPS):
        for chunk in chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[micro_batches(step, device, num_micro) for _ in chunks],
            model=chunks if len(chunks) > 1 else chunks[0],
            num_microbatches=num_micro,
            seq_length=LENGTH,
            micro_batch_size=MICRO_BATCH,
            forward_only=False,
        )
        total = sum((report["lm"] for report in reports), torch.zeros(2))
        dist.all_reduce(total, group=device.data_group)
        _, norm, _ = optimizer.step()
        result["loss"].append((total[0] / total[1].clamp(min=1)).item())
        result["norm"].append(norm)
    return result


def micro_batches(step: int, device, num_micro: int):
    whole = batches(step)
    for number in range(num_micro):
        at = (device.data_rank * num_micro + number) * MICRO_BATCH
        yield tuple(part[at : at + MICRO_BATCH] for part in whole)


def forward_step(iterator, model):
    iterator = iterator[0] if isinstance(iterator, list) else iterator
    tokens_BS, document_ids_BS, mask_BS = next(iterator)
    positions_BS = torch.arange(LENGTH).expand_as(tokens_BS)
    labels_BS = tokens_BS.roll(-1, 1)
    output = model(tokens_BS, positions_BS, document_ids_BS, labels=labels_BS, loss_mask=mask_BS)

    def loss(output):
        total = (output.float() * mask_BS).sum()
        count = mask_BS.sum().int()
        return total, count, {"lm": torch.stack([total.detach(), count.float()])}

    return output, loss


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    results = {name: run_layout(job, layout) for name, layout in job["layouts"].items()}
    if all(results.values()):
        with open(job["results"], "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()
