"""A prepared road (HF checkpoint, index, blend, all done) that training tests copy and train."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loaded import loaded

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.pipeline import run_road
from megatron_math.train import run as room

ROAD = {
    "name": "road",
    "seed": 7,
    "synthesize": {"problems": 1200, "heldout": 20},
    "index": {
        "tokenizer": {"train": {"vocab_size": 500}},
        "sources": {
            "problems": {"stage": "10_synthesize", "file": "problems.jsonl"},
            "general": {"path": "general.jsonl"},
        },
    },
    "blend": {
        "sequence_length": 64,
        "tokens": 20 * 8 * 64,
        "mix": {"general": {"share": 4}, "problems": {"share": 6, "pack": "whole"}},
    },
    "precision": {"dtype": "fp32"},
    "train": {
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup_share": 0.1,
        "validation_interval": 10,
        "validation_samples": 10,  # five micro-batches: replicas and virtual stages fill up
        "tensorboard": False,
        "log_interval": 10,
    },
    "checkpoint": {"interval": 1000, "async": False},  # a writer loads torch for seconds
}


def save_hf_llama(folder: Path, *, vocab_size: int = 500) -> None:
    """A random Llama of 4 layers with grouped queries; its vocabulary needs padding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=vocab_size, max_position_embeddings=128,
        tie_word_embeddings=False, initializer_range=0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def write_general(path: Path) -> None:
    """Plain English: docstrings of modules that every Python has."""
    import argparse
    import inspect
    import logging
    import textwrap
    import threading

    texts = [
        doc
        for module in (argparse, inspect, logging, textwrap, threading)
        for name in sorted(vars(module))
        if (doc := inspect.getdoc(vars(module)[name])) and len(doc) > 60
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in dict.fromkeys(texts)))


def prepare(folder: Path, **changes: dict[str, Any]) -> None:
    """Do everything up to the blend in a folder with hf/. changes: keys of sections of ROAD."""
    write_general(folder / "general.jsonl")
    road = json.loads(json.dumps(ROAD)) | {"base": {"hf": str(folder / "hf")}}
    road["index"]["sources"]["general"]["path"] = str(folder / "general.jsonl")
    for section, keys in changes.items():
        road[section] |= keys
    (folder / "road.yaml").write_text(yaml.safe_dump(road))
    run_road(Road.load(folder / "road.yaml", runs=folder / "runs"), last="blend")


@pytest.fixture(scope="module", autouse=True)
def ranks_are_forks() -> Iterator[None]:
    """Ranks that a test starts in this process's name are forks: see loaded.py."""

    def start(*arguments: object, **keywords: object) -> int:
        return loaded().start_processes(*arguments, **keywords)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "start_processes", start)
        yield


def shorter(prepared: Path, folder: Path, steps: int) -> Path:
    """The same with a plan of so many steps of 8 samples, and a few more for whole problems."""
    shutil.copytree(prepared / "runs", folder / "runs", symlinks=True)
    road = yaml.safe_load((prepared / "road.yaml").read_text())
    road["blend"]["tokens"] = steps * 8 * 64
    (folder / "road.yaml").write_text(yaml.safe_dump(road))
    run_road(Road.load(folder / "road.yaml", runs=folder / "runs"), last="blend")
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with road.yaml and runs/road/{00_base, 10_.., 30_.., 40_blend}, all done."""
    folder = tmp_path_factory.mktemp("prepared")
    save_hf_llama(folder / "hf")
    prepare(folder)
    return folder


@pytest.fixture
def copy_of(prepared: Path, tmp_path: Path):
    """copy_of(name, *overrides) -> a Road of its own with everything up to the blend done."""

    def copy(name: str, *overrides: str) -> Road:
        runs = tmp_path / name
        shutil.copytree(prepared / "runs", runs, symlinks=True)
        return Road.load(prepared / "road.yaml", overrides, runs)

    return copy


def metrics(road: Road, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    lines = (road.folder("50_train") / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def train():
    """train(road) in this process, which spares a start; True when it came to the end."""
    from megatron_math.device.start import PASSED_ON
    from megatron_math.train.run import read_order, train_rank

    handlers = {number: signal.getsignal(number) for number in PASSED_ON}

    def in_this_process(road: Road) -> bool:
        try:
            train_rank(road, read_order(road))
        except StoppedOnRequest:
            return False
        return True

    yield in_this_process
    for number, handler in handlers.items():
        signal.signal(number, handler)
