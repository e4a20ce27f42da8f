"""A Mixtral from one HF checkpoint in every layout of its experts: the same losses and norms.

Losses and balance losses agree to 1e-5, gradient norms to 1e-4 at a rate of 1e-4: a router chooses,
and a choice that turns over moves the gradient more than the loss.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from loaded import loaded
from train_roads import metrics

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.pipeline import run_road
from megatron_math.train.run import read_order

TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4
LAYOUTS = {
    2: {
        "expert 2 of data 2": ["parallel.expert=2", "parallel.data=2"],
        "expert 2 of tensor 2": [
            "parallel.expert=2", "parallel.tensor=2", "parallel.sequence=true",
        ],
        "expert 2 of context 2": ["parallel.expert=2", "parallel.context=2"],
    },
    4: {
        "expert 2 of data 4": ["parallel.expert=2", "parallel.data=4", "train.micro_batch_size=1"],
        "expert 2 of pipeline 2 x data 2, recomputed": [
            "parallel.expert=2", "parallel.pipeline=2", "parallel.data=2",
            "parallel.recompute=full",
        ],
    },
}  # fmt: skip
LEGS = {  # one run that changes how its experts are dealt out
    2: ["parallel.expert=2", "parallel.data=2", "train.stop_after=7"],
    1: ["train.stop_after=14"],
    4: ["parallel.expert=2", "parallel.data=4"],
}
FAULTS = {
    2: (  # what came back from another process's experts is not sent home
        ["parallel.expert=2", "parallel.data=2", "train.stop_after=2"],
        "import megatron.core.tensor_parallel.mappings as core\n"
        "backward = core._AllToAll.backward\n"
        "nothing = lambda *a: tuple(g if g is None else g * 0 for g in backward(*a))\n"
        "patch(core._AllToAll, 'backward', staticmethod(nothing))\n",
    ),
    4: (  # the two copies of each expert do not add their gradients
        ["parallel.expert=2", "parallel.data=4", "train.stop_after=2"],
        "import megatron.core.distributed.param_and_grad_buffer as core\n"
        "def without_experts(sync):\n"
        "    def maybe(self, *args, **kwargs):\n"
        "        if all(getattr(p, 'allreduce', True) for p in self.params):\n"
        "            sync(self, *args, **kwargs)\n"
        "    return maybe\n"
        "group = core._ParamAndGradBucketGroup\n"
        "patch(group, 'start_grad_sync', without_experts(group.start_grad_sync))\n"
        "patch(group, 'finish_grad_sync', without_experts(group.finish_grad_sync))\n",
    ),
}


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
    described["blend"]["mix"]["problems"]["loss"] = "solution"
    described["train"] |= {"lr": 1e-4, "balance_coefficient": 0.1, "validation_samples": 0}
    (folder / "road.yaml").write_text(yaml.safe_dump(described))
    run_road(Road.load(folder / "road.yaml", runs=folder / "runs"), last="blend")
    return folder


@pytest.fixture(scope="module")
def trained(mixtral: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Road]:
    """Every run of this module by name; "legs" is one run, gone on with in each world."""
    folder = tmp_path_factory.mktemp("trained")

    def road(name: str, overrides: list[str]) -> Road:
        if not (folder / name).exists():
            shutil.copytree(mixtral / "runs", folder / name, symlinks=True)
        return Road.load(mixtral / "road.yaml", overrides, folder / name)

    roads = {}
    for world, leg in LEGS.items():
        asked = LAYOUTS.get(world, {"one process": []}) | {"legs": leg}
        here = {name: road(name, overrides) for name, overrides in asked.items()}
        jobs = [[str(one.yaml_path), one.overrides, str(one.runs)] for one in here.values()]
        if world in FAULTS:
            overrides, source = FAULTS[world]
            overrides = [*overrides, "guards.digest_steps=0"]  # they see that replicas part
            here[f"fault {world}"] = road(f"fault {world}", overrides)
            jobs.append([jobs[0][0], overrides, str(here[f"fault {world}"].runs), source])
        (folder / "jobs.json").write_text(json.dumps(jobs))
        script = Path(__file__).with_name("train_several.py")
        assert (
            loaded().start_processes(
                [sys.executable, str(script), str(folder / "jobs.json")], world
            )
            == 0
        )
        roads |= here
    return roads


def largest_differences(one: Road, other: Road, steps: int | None = None) -> tuple[float, float]:
    """Largest relative difference of any loss, and of the gradient norm, over all steps."""
    pairs = list(zip(metrics(one)[:steps], metrics(other), strict=True))
    assert len(pairs) == (steps or len(metrics(one))) > 1

    def largest(names: list[str]) -> float:
        return max(abs(a[n] - b[n]) / abs(a[n]) for a, b in pairs for n in names if n in a)

    losses = [name for name in pairs[0][0] if "loss" in name]
    assert {"lm loss", "load_balancing_loss"} < set(losses)
    found = largest(losses), largest(["grad-norm"])
    print("losses {:.1e}, norm {:.1e}".format(*found))
    return found


@pytest.mark.parametrize("layout", [name for world in LAYOUTS.values() for name in world])
def test_every_layout_of_experts_computes_the_same(layout: str, trained: dict[str, Road]) -> None:
    losses, norm = largest_differences(trained["one process"], trained[layout])
    assert losses < TOLERANCE
    assert norm < NORM_TOLERANCE


def test_a_run_goes_on_when_its_experts_are_dealt_out_anew(trained: dict[str, Road]) -> None:
    """Optimizer state included: from two processes to one to four."""
    losses, norm = largest_differences(trained["one process"], trained["legs"])
    assert losses < TOLERANCE
    assert norm < NORM_TOLERANCE


@pytest.mark.parametrize("world", FAULTS)
def test_a_dropped_exchange_is_caught(world: int, trained: dict[str, Road]) -> None:
    _, norm = largest_differences(trained["one process"], trained[f"fault {world}"], steps=2)
    assert norm > 100 * NORM_TOLERANCE


def test_experts_learn_and_their_balance_is_reported(trained: dict[str, Road]) -> None:
    rows = metrics(trained["one process"])
    assert rows[-1]["lm loss"] < 0.999 * rows[0]["lm loss"]
    assert all(1 < row["load_balancing_loss"] < 2 for row in rows)


def test_a_coefficient_without_experts_is_refused(copy_of) -> None:
    with pytest.raises(UserError, match="balance_coefficient 0.1 has no effect"):
        read_order(copy_of("dense", "train.balance_coefficient=0.1"))
