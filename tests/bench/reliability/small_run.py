"""A run of the quickstart's size, data 2, for the campaigns that kill its ranks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "train"))

import yaml
from train_roads import write_general

from megatron_math.base.road import Road
from megatron_math.pipeline import run_road

SEQUENCE_LENGTH, GLOBAL_BATCH = 256, 8
ROAD: dict[str, Any] = {
    "name": "road",
    "seed": 7,
    "base": {"preset": "tiny"},
    "model": {"vocab_size": 1536},
    "synthesize": {"problems": 20_000, "heldout": 0},
    "index": {
        "tokenizer": {"train": {"vocab_size": 1536}},
        "sources": {
            "problems": {"stage": "10_synthesize", "file": "problems.jsonl"},
            "general": {"path": "general.jsonl"},
        },
    },
    "blend": {
        "sequence_length": SEQUENCE_LENGTH,
        "mix": {"general": {"share": 1}, "problems": {"share": 9}},
    },
    "parallel": {"data": 2},
    "precision": {"dtype": "fp32"},
    "train": {
        "global_batch_size": GLOBAL_BATCH,
        "micro_batch_size": 4,
        "lr": 1e-3,
        "validation_interval": 1000,
        "log_interval": 100,
    },
    "guards": {"restarts": 1000},
    "checkpoint": {"keep": 2},
}


def prepared(folder: Path, steps: int, interval: int) -> Road:
    """The road in `folder` up to its blend; what is there is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_general(folder / "general.jsonl")
    road = json.loads(json.dumps(ROAD))
    road["index"]["sources"]["general"]["path"] = str(folder / "general.jsonl")
    road["blend"]["tokens"] = steps * GLOBAL_BATCH * SEQUENCE_LENGTH
    road["checkpoint"]["interval"] = interval
    (folder / "road.yaml").write_text(yaml.safe_dump(road))
    made = Road.load(folder / "road.yaml", runs=folder / "runs")
    run_road(made, last="blend")
    return made


def start(road: Road) -> tuple["subprocess.Popen[bytes]", Path]:
    """`megatron-math train`, and the file with what it says."""
    command = [sys.executable, "-m", "megatron_math.cli", "train", str(road.yaml_path)]
    log = road.runs / "log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*command, *road.overrides, "--runs", str(road.runs)],
            stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    return process, log
