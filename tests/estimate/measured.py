"""Run in two processes: bytes of real tensors in one layout after another.

Usage: measured.py RESULTS.json
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_math.device.grid import Grid
from megatron_math.device.open import Device, open_device
from megatron_math.estimate.layout import Layout
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset

MODEL = load_preset("small-15m")
LENGTH = 256
LAYOUTS = {
    "data 2": {},
    "data 2, fp32": {"precision": "fp32"},
    "tensor 2": {"tensor": 2},
    "tensor 2, sequence": {"tensor": 2, "sequence": True},
    "pipeline 2": {"pipeline": 2},
    "data 2, full recompute": {"recompute": "full"},
}


def layout_of(changes: dict) -> Layout:
    return Layout(
        fused=False, gpus=2, sequence_length=LENGTH, global_batch=4, **{"micro_batch": 2, **changes}
    )


def grid_of(layout: Layout) -> Grid:
    names = ("tensor", "pipeline", "context", "sequence")
    return Grid(**{name: getattr(layout, name) for name in names})


def build(layout: Layout, model: ModelConfig, device: Device) -> list:
    from megatron_math.model.build import build_model

    options = {}
    if layout.recompute == "full":
        options = {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    dtype = torch.float32 if layout.precision == "fp32" else torch.bfloat16
    return build_model(
        model, grid=device.grid, dtype=dtype, spec="torch", sequence_length=LENGTH, **options
    )


def state_bytes(layout: Layout, device: Device) -> dict[str, int]:
    """Weights, gradient buffers and optimizer state of this rank after one step."""
    from megatron_math.train.config import TrainConfig
    from megatron_math.train.optimizer import build_optimizer, wrap_for_training

    dtype = torch.float32 if layout.precision == "fp32" else torch.bfloat16
    models = build(layout, MODEL, device)
    weights = sum(size(p) for model in models for p in model.parameters())
    chunks = wrap_for_training(models, dtype, overlap=False)
    train = TrainConfig(global_batch_size=4, lr=1e-3)
    optimizer = build_optimizer(chunks, train, dtype, overlap=False)
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.main_grad.normal_()
    optimizer.step()
    gradients = sum(size(buffer.grad_data) for chunk in chunks for buffer in chunk.buffers)
    state = 0
    for part in optimizer.chained_optimizers:
        for held in part.optimizer.state.values():
            state += sum(size(value) for name, value in held.items() if name.startswith("exp_avg"))
        for group in part.shard_fp32_from_float16_groups:
            state += sum(size(master) for master in group)
    return {"weights": weights, "gradients": gradients, "optimizer": state}


def kept_bytes(layout: Layout, layers: int, device: Device) -> int:
    """What a forward pass of one micro-batch keeps for the backward pass; weights not counted."""
    model = MODEL.model_copy(update={"num_layers": layers})
    (stage,) = build(layout, model, device)
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # no address comes twice
        return tensor

    tokens_BS = torch.randint(0, 100, (layout.micro_batch, LENGTH // layout.context))
    positions_BS = torch.arange(tokens_BS.shape[1]).expand_as(tokens_BS)
    documents_BS = torch.zeros_like(tokens_BS, dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stage(tokens_BS, positions_BS, documents_BS, labels=tokens_BS)
    return sum(kept.values())


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main(results: Path) -> None:
    found = {}
    for name, changes in LAYOUTS.items():
        layout = layout_of(changes)
        with open_device(grid_of(layout), seed=7) as device:
            mine = {"stage": 0 if device.is_first_stage else 1, **state_bytes(layout, device)}
            if layout.pipeline == 1:  # one more layer: what a layer keeps
                mine["layer"] = kept_bytes(layout, 3, device) - kept_bytes(layout, 2, device)
            every = [None] * 2
            dist.all_gather_object(every, mine)
            found[name] = {"layout": asdict(layout), "ranks": every}
            is_last = device.is_last_rank
    if is_last:
        results.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
