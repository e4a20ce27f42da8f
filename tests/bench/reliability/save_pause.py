"""How long training stands still for a save: ours beside core's synchronous save of the same state.

    python tests/bench/reliability/save_pause.py [--dtype fp32|bf16] [--pairs 8] [--work DIR]

A model of 35 M parameters with its optimizer, one process. In turns, with random values in between
so that nothing is the same twice: core's `dist_checkpointing.save` (its fully reshardable form, as
Megatron-LM calls it with --dist-ckpt-optim-fully-reshardable) from call to return, and ours from
call to return, and then until the checkpoint is published. Both sync their files. What core leaves
out (digests, renaming) is in ours. Prints JSON: medians, the median of the ratios of the pairs,
and a 95 % bootstrap interval of it.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.log import set_up_logging
from megatron_math.checkpoint.saver import Extras, Saver
from megatron_math.checkpoint.state import model_state
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.device.optimizer_state import SHARDING, create_optimizer_state
from megatron_math.model.build import build_model
from megatron_math.model.presets import load_preset
from megatron_math.train.config import TrainConfig
from megatron_math.train.optimizer import build_optimizer, wrap_for_training

SHAPE = {
    "hidden_size": 384, "num_layers": 6, "num_attention_heads": 6, "num_query_groups": 6,
    "ffn_hidden_size": 1024, "vocab_size": 32_000,
}  # fmt: skip
TRAIN = TrainConfig.model_validate(
    {"global_batch_size": 1, "micro_batch_size": 1, "lr": 1e-3, "schedule": "constant"}
)


def core_save(models: list[Any], optimizer: Any, folder: Path) -> float:
    """Seconds of core's own way."""
    from megatron.core import dist_checkpointing

    folder.mkdir()
    begin = time.perf_counter()
    create_optimizer_state(optimizer)
    state = model_state(models)
    part = optimizer.sharded_state_dict(state, metadata=SHARDING)
    dist_checkpointing.save(state | {"optimizer": part, "iteration": 1}, str(folder))
    return time.perf_counter() - begin


def our_save(
    saver: Saver, models: list[Any], optimizer: Any, iteration: int
) -> tuple[float, float]:
    """Seconds that training stands still, and seconds until the checkpoint is there."""
    extras = Extras({"data_state.json": {"iteration": iteration}}, {})
    begin = time.perf_counter()
    saver.start(models, optimizer, iteration, extras)
    pause = time.perf_counter() - begin
    while saver.pending is not None:
        saver.poll(1.0)
    assert saver.failed is None, saver.failed
    return pause, time.perf_counter() - begin


def change(models: list[Any], optimizer: Any) -> None:
    """Other values everywhere, as a step leaves them; a first step makes the state."""
    for model in models:
        model.zero_grad_buffer()
        for parameter in model.parameters():
            parameter.main_grad.normal_()
    optimizer.step()


def interval(ratios: list[float]) -> tuple[float, float]:
    source = random.Random(1)
    medians = sorted(
        statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(10_000)
    )
    return medians[250], medians[9749]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--work", type=Path, help="a folder of the disk to try; default: a new one")
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    config = load_preset("tiny").model_copy(update=SHAPE)
    with (
        tempfile.TemporaryDirectory(dir=arguments.work) as work,
        open_device(Grid(), seed=1) as device,
    ):
        models = build_model(config, grid=Grid(), dtype=dtype, sequence_length=512, seed=1)
        models = wrap_for_training(models, dtype, overlap=False)
        optimizer = build_optimizer(models, TRAIN, dtype, overlap=False)
        saver = Saver(Path(work, "ours"), device.rank, device.world, "launch")
        change(models, optimizer)
        saver.prepare(models, optimizer)
        our_save(saver, models, optimizer, 1)  # the writer has loaded by then
        rows = []
        for number in range(2, arguments.pairs + 2):
            turns = ["core", "ours"] if number % 2 else ["ours", "core"]
            row: dict[str, float] = {}
            for side in turns:
                change(models, optimizer)
                os.sync()  # each begins with a disk that has nothing to do
                if side == "core":
                    row["core"] = core_save(models, optimizer, Path(work, "core"))
                    shutil.rmtree(Path(work, "core"))
                else:
                    row["ours"], row["published"] = our_save(saver, models, optimizer, number)
                    folder = saver.save / f"iter_{number:07d}"
                    num_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                    shutil.rmtree(folder)
            rows.append(row)
        saver.close()
    ratios = [row["core"] / row["ours"] for row in rows]
    low, high = interval(ratios)
    said = {
        "dtype": arguments.dtype,
        "megabytes": round(num_bytes / 1e6, 1),
        "pairs": len(rows),
        "core_seconds": statistics.median(row["core"] for row in rows),
        "pause_seconds": statistics.median(row["ours"] for row in rows),
        "published_seconds": statistics.median(row["published"] for row in rows),
        "times_shorter": statistics.median(ratios),
        "interval": [low, high],
        "rows": rows,
    }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
