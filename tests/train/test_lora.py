"""LoRA: every layout computes the same, the base stays, resuming changes nothing."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from train_roads import metrics

from megatron_math.base.road import Road
from megatron_math.device.start import start_processes
from megatron_math.train.run import run

LORA = ("train.lora={rank: 4, alpha: 16}", "train.lr=1e-3")
LAYOUTS = {
    "tensor 2": ["parallel.tensor=2"],
    "tensor 2, sequence parallel": ["parallel.tensor=2", "parallel.sequence=true"],
    "pipeline 2": ["parallel.pipeline=2"],
    "pipeline 2, virtual 2": ["parallel.pipeline=2", "parallel.virtual=2"],
    "context 2": ["parallel.context=2"],
    "data 2": ["parallel.data=2"],
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def copies(prepared: Path, tmp_path_factory: pytest.TempPathFactory):
    def copy(*overrides: str) -> Road:
        runs = tmp_path_factory.mktemp("lora")
        shutil.copytree(prepared / "runs", runs, symlinks=True, dirs_exist_ok=True)
        return Road.load(prepared / "road.yaml", [*LORA, *overrides], runs)

    return copy


@pytest.fixture(scope="module")
def one_process(copies) -> Road:
    road = copies()
    run(road)
    return road


@pytest.fixture(scope="module")
def layouts(copies, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Road]:
    roads = {name: copies(*overrides) for name, overrides in LAYOUTS.items()}
    jobs = tmp_path_factory.mktemp("jobs") / "jobs.json"
    jobs.write_text(
        json.dumps([[str(r.yaml_path), r.overrides, str(r.runs)] for r in roads.values()])
    )
    script = Path(__file__).with_name("train_several.py")
    assert start_processes([sys.executable, str(script), str(jobs)], 2) == 0
    return roads


def largest_difference(one: Road, other: Road) -> float:
    pairs = list(zip(metrics(one), metrics(other), strict=True))
    assert len(pairs) >= 20
    names = ("lm loss", "grad-norm")
    worst = max(abs(a[n] - b[n]) / abs(a[n]) for a, b in pairs for n in names)
    print(f"largest relative difference: {worst:.2e}")
    return worst


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, one_process, layouts):
    assert largest_difference(one_process, layouts[layout]) < TOLERANCE


def test_table(one_process, layouts):
    for name, road in layouts.items():
        print("==", name)
        for a, b in zip(metrics(one_process), metrics(road)):
            print("%d %.2e %.2e" % (a["iteration"], abs(a["lm loss"] - b["lm loss"]) / a["lm loss"], abs(a["grad-norm"] - b["grad-norm"]) / a["grad-norm"]), a["lm loss"])
