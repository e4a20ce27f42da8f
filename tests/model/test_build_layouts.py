"""One model in several layouts: the same losses and gradient norms as in one process."""

import json
import sys
from pathlib import Path

import pytest
import torch
from loaded import loaded

from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device

LAYOUTS = {
    "tensor": {"grid": {"tensor": 2}},
    "tensor, sequence": {"grid": {"tensor": 2, "sequence": True}},
    "pipeline": {"grid": {"pipeline": 2}},
    "virtual": {"grid": {"pipeline": 2, "virtual": 2}},
    "data": {},
    "tensor, bf16": {"grid": {"tensor": 2, "sequence": True}, "dtype": "bfloat16"},
    "dropped": {"drop_all_reduce": True},
}
SCRIPT = Path(__file__).with_name("layouts.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{layout: {"loss": [...], "norm": [...]}}, "one" for one process, from the same weights."""
    folder = tmp_path_factory.mktemp("layouts")
    model = {
        "hidden_size": 32,
        "num_layers": 4,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 48,
        "vocab_size": 100,
        "max_sequence_length": 32,
        "tied_embeddings": True,  # its gradient meets from both ends of the pipeline
        "init_std": 0.1,
    }
    job = {
        "model": model,
        "start": str(folder / "start"),
        "results": str(folder / "results.json"),
        "layouts": LAYOUTS,
    }
    (folder / "start").mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    one = _one_process(job)
    code = loaded().start_processes([sys.executable, str(SCRIPT), str(folder / "job.json")], 2)
    assert code == 0
    return {"one": one, **json.loads((folder / "results.json").read_text())}


def _one_process(job: dict) -> dict:
    """Save the start weights and train on them in this process."""
    from importlib import util

    from megatron.core import dist_checkpointing

    from megatron_math.model.build import build_model
    from megatron_math.model.config import ModelConfig

    spec = util.spec_from_file_location("layouts", SCRIPT)
    layouts = util.module_from_spec(spec)
    spec.loader.exec_module(layouts)
    with open_device(Grid(), seed=7) as device:
        models = build_model(
            ModelConfig(**job["model"]),
            grid=device.grid,
            dtype=torch.float32,
            sequence_length=layouts.LENGTH,
        )
        dist_checkpointing.save(models[0].sharded_state_dict(), job["start"])
        logits = layouts.first_logits(models, job)
        return {"logits": logits, **layouts.train(device, models, torch.float32, {})}


@pytest.mark.parametrize("layout", ["tensor", "tensor, sequence", "pipeline", "virtual", "data"])
def test_layouts_agree_with_one_process(results, layout):
    for number in ("loss", "norm"):
        assert results[layout][number] == pytest.approx(results["one"][number], rel=1e-5)


@pytest.mark.parametrize("layout", ["tensor", "tensor, sequence", "data"])
def test_gathered_logits_equal_one_process(results, layout):
    ours, expected = (torch.tensor(results[name]["logits"]) for name in (layout, "one"))
    assert len(expected) == 2 * 16 * 100  # un-padded
    assert (ours - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())


def test_steps_move_the_loss(results):
    # Later steps test the optimizer only if the weights really change; clipping is at work, too.
    assert min(results["one"]["norm"]) > 0.5
    assert len(set(results["one"]["loss"])) == 3


def test_a_dropped_all_reduce_is_seen(results):
    assert results["dropped"]["norm"][0] != pytest.approx(results["one"]["norm"][0], rel=1e-3)


def test_bf16_weights_with_fp32_gradients_stay_close(results):
    ours, expected = results["tensor, bf16"], results["one"]
    assert ours["loss"] == pytest.approx(expected["loss"], rel=2e-2)
    assert ours["loss"] != pytest.approx(expected["loss"], rel=1e-6)
