"""Run in two processes: bytes of real tensors in one layout after another.

Usage: measured.py RESULTS.json [SHAPE]
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_math.device.grid import Grid
from megatron_math.device.open import Device, open_device
from megatron_math.estimate.layout import Layout
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import LoraConfig
from megatron_math.model.presets import load_preset

SHAPES: dict[str, dict[str, Any]] = {
    "15m": {},
    "narrow": {
        "hidden_size": 128,
        "ffn_hidden_size": 384,
        "num_attention_heads": 4,
        "vocab_size": 1024,
        "num_layers": 4,
    },
}
"""Changes to the preset small-15m, of which no weight needs padding in its buffer."""
EXPERTS = {"family": "mixtral", "num_experts": 4, "experts_per_token": 2}
LENGTH = 256
ALL_MAPS = LoraConfig(rank=8, alpha=16)
TWO_MAPS = LoraConfig(rank=8, alpha=16, targets=("qkv", "proj"))
SPLIT_MAPS = LoraConfig(rank=8, alpha=16, targets=("qkv", "fc2"))
LAYOUTS: dict[str, dict[str, Any]] = {
    "data 2": {},
    "data 2, fp32": {"precision": "fp32"},
    "tensor 2": {"tensor": 2},
    "tensor 2, sequence": {"tensor": 2, "sequence": True},
    "pipeline 2": {"pipeline": 2},
    "data 2, full recompute": {"recompute": "full"},
    "experts, data 2": {"model": EXPERTS},
    "experts, data 2, fp32": {"model": EXPERTS, "precision": "fp32"},
    "experts, expert 2": {"model": EXPERTS, "expert": 2},
    "experts, expert 2 of tensor 2, sequence": {
        "model": EXPERTS, "expert": 2, "tensor": 2, "sequence": True,
    },
    "experts, pipeline 2": {"model": EXPERTS, "pipeline": 2},
    "experts, expert 2, full recompute": {"model": EXPERTS, "expert": 2, "recompute": "full"},
    "adapters, data 2": {"lora": ALL_MAPS},
    "adapters, data 2, fp32": {"lora": ALL_MAPS, "precision": "fp32"},
    "adapters, tensor 2": {"lora": ALL_MAPS, "tensor": 2},
    "adapters, tensor 2, sequence": {"lora": ALL_MAPS, "tensor": 2, "sequence": True},
    "adapters, pipeline 2": {"lora": ALL_MAPS, "pipeline": 2},
    "adapters on qkv and fc2, data 2": {"lora": SPLIT_MAPS},
    "adapters beside experts, expert 2": {"model": EXPERTS, "lora": TWO_MAPS, "expert": 2},
}  # fmt: skip
"""What differs from one micro-batch of 2 of the dense model in two processes, by name."""


def model_of(name: str, shape: str = "15m") -> ModelConfig:
    return load_preset("small-15m", SHAPES[shape] | LAYOUTS[name].get("model", {}))


def layout_of(name: str) -> Layout:
    changes = {key: value for key, value in LAYOUTS[name].items() if key != "model"}
    return Layout(
        fused=False, gpus=2, sequence_length=LENGTH, global_batch=4, micro_batch=2, **changes
    )


def grid_of(layout: Layout) -> Grid:
    names = ("tensor", "pipeline", "context", "expert", "sequence")
    return Grid(**{name: getattr(layout, name) for name in names})


def build(layout: Layout, model: ModelConfig, device: Device) -> list:
    from megatron_math.model.build import build_model

    dtype = torch.float32 if layout.precision == "fp32" else torch.bfloat16
    return build_model(
        model, grid=device.grid, dtype=dtype, spec="torch", sequence_length=LENGTH,
        lora=layout.lora, balance_coefficient=0.01 if model.num_experts else 0.0,
        recompute=layout.recompute,
    )  # fmt: skip


def state_bytes(layout: Layout, model: ModelConfig, device: Device) -> dict[str, int]:
    """Weights, gradient buffers and optimizer state of this rank after one step."""
    from megatron_math.train.config import TrainConfig
    from megatron_math.train.optimizer import build_optimizer, wrap_for_training

    dtype = torch.float32 if layout.precision == "fp32" else torch.bfloat16
    models = build(layout, model, device)
    weights = sum(size(p) for model in models for p in model.parameters())
    chunks = wrap_for_training(models, dtype, overlap=False)
    train = TrainConfig(global_batch_size=4, lr=1e-3)
    optimizer = build_optimizer(chunks, train, dtype, overlap=False)
    for chunk in chunks:
        for parameter in chunk.parameters():
            if parameter.requires_grad:
                parameter.main_grad.normal_()
    optimizer.step()
    buffers = [b for chunk in chunks for b in (*chunk.buffers, *chunk.expert_parallel_buffers)]
    gradients = sum(size(buffer.grad_data) for buffer in buffers)
    state = 0
    for part in optimizer.chained_optimizers:
        for held in part.optimizer.state.values():
            state += sum(size(value) for name, value in held.items() if name.startswith("exp_avg"))
        for group in part.shard_fp32_from_float16_groups:
            state += sum(size(master) for master in group)
    return {"weights": weights, "gradients": gradients, "optimizer": state}


def kept_bytes(layout: Layout, model: ModelConfig, layers: int, device: Device) -> int:
    """What a forward pass of one micro-batch keeps for the backward pass; weights not counted."""
    (stage,) = build(layout, model.model_copy(update={"num_layers": layers}), device)
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


def main(results: Path, shape: str = "15m") -> None:
    found = {}
    for name in LAYOUTS:
        layout, model = layout_of(name), model_of(name, shape)
        with open_device(grid_of(layout), seed=7) as device:
            stage = 0 if device.is_first_stage else 1
            mine = {"stage": stage, **state_bytes(layout, model, device)}
            if layout.pipeline == 1:  # one more layer: what a layer keeps
                two, three = (kept_bytes(layout, model, layers, device) for layers in (2, 3))
                mine["layer"] = three - two
            every = [None] * 2
            dist.all_gather_object(every, mine)
            found[name] = {
                "layout": layout.to_json(), "model": model.model_dump(mode="json"), "ranks": every
            }  # fmt: skip
            is_last = device.is_last_rank
    if is_last:
        results.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
