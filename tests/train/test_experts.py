"""A Mixtral from one HF checkpoint in every layout of its experts: the same losses and norms.

Losses and balance losses agree to 1e-5, gradient norms to 1e-4 at a rate of 1e-4: a router chooses,
and a choice that turns over moves the gradient more than the loss.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from train_roads import metrics

from megatron_math.base.road import Road
from megatron_math.convert.run import run_base
from megatron_math.device.start import start_processes
from megatron_math.train.run import run

TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4
LAYOUTS = {
    2: {
        "expert 2 of data 2": ["parallel.expert=2", "parallel.data=2"],
        "data 2": ["parallel.data=2"],
        "expert 2 of tensor 2": [
            "parallel.expert=2", "parallel.tensor=2", "parallel.sequence=true",
        ],
        "expert 2 of context 2": ["parallel.expert=2", "parallel.context=2"],
    },
    4: {
        "expert 2 of data 4": ["parallel.expert=2", "parallel.data=4", "train.micro_batch_size=1"],
        "expert 2 of pipeline 2 x data 2": [
            "parallel.expert=2", "parallel.pipeline=2", "parallel.data=2",
            "parallel.recompute=full",
        ],
        "expert 4 of tensor 2 x data 2": [
            "parallel.expert=4", "parallel.tensor=2", "parallel.sequence=true", "parallel.data=2",
        ],
    },
}  # fmt: skip


def save_hf_mixtral(folder: Path) -> None:
    """A random Mixtral of 2 layers with 4 experts; its vocabulary needs padding."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, max_position_embeddings=128, initializer_range=0.05,
        num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def mixtral(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared road with a Mixtral as its base."""
    folder = tmp_path_factory.mktemp("mixtral")
    save_hf_mixtral(folder / "hf")
    shutil.copytree(prepared / "runs", folder / "runs", symlinks=True)
    described = yaml.safe_load((prepared / "road.yaml").read_text())
    described["base"] = {"hf": str(folder / "hf")}
    # Prompts without loss, so that tokens to balance and tokens with a loss are not the same.
    described["train"] |= {"lr": 1e-4, "balance_coefficient": 0.1, "validation_samples": 0}
    (folder / "road.yaml").write_text(yaml.safe_dump(described))
    run_base(Road.load(folder / "road.yaml", runs=folder / "runs"))
    return folder


@pytest.fixture
def copy_of_mixtral(mixtral: Path, tmp_path: Path):
    def copy(name: str, *overrides: str) -> Road:
        shutil.copytree(mixtral / "runs", tmp_path / name, symlinks=True)
        return Road.load(mixtral / "road.yaml", overrides, tmp_path / name)

    return copy


@pytest.fixture(scope="module")
def one_process(mixtral: Path, tmp_path_factory: pytest.TempPathFactory) -> Road:
    runs = tmp_path_factory.mktemp("one_process")
    shutil.copytree(mixtral / "runs", runs, symlinks=True, dirs_exist_ok=True)
    road = Road.load(mixtral / "road.yaml", runs=runs)
    run(road)
    return road


def largest_differences(one: Road, other: Road) -> tuple[float, float]:
    """Largest relative difference of any loss, and of the gradient norm, over all steps."""
    pairs = list(zip(metrics(one), metrics(other), strict=True))
    assert len(pairs) >= 20

    def largest(names: list[str]) -> float:
        return max(abs(a[n] - b[n]) / abs(a[n]) for a, b in pairs for n in names if n in a)

    losses = [name for name in pairs[0][0] if "loss" in name]
    assert {"lm loss", "load_balancing_loss"} < set(losses)
    found = largest(losses), largest(["grad-norm"])
    print("losses {:.1e}, norm {:.1e}".format(*found))
    return found


@pytest.mark.parametrize("world", LAYOUTS)
def test_every_layout_of_experts_computes_the_same(
    world: int, one_process: Road, mixtral: Path, tmp_path: Path
) -> None:
    roads = {}
    for number, (name, overrides) in enumerate(LAYOUTS[world].items()):
        shutil.copytree(mixtral / "runs", tmp_path / str(number), symlinks=True)
        roads[name] = Road.load(mixtral / "road.yaml", overrides, tmp_path / str(number))
    jobs = [[str(road.yaml_path), road.overrides, str(road.runs)] for road in roads.values()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("train_several.py")
    assert start_processes([sys.executable, str(script), str(tmp_path / "jobs.json")], world) == 0
    for name, road in roads.items():
        print(name)
        losses, norm = largest_differences(one_process, road)
        assert losses < TOLERANCE, name
        assert norm < NORM_TOLERANCE, name
