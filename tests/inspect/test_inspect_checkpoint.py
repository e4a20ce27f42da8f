"""A checkpoint's tensors and its health; planted damage is always named."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from rich.console import Console
from typer.testing import CliRunner

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json
from megatron_math.checkpoint.folders import publish, temporary_folder
from megatron_math.inspect.app import app
from megatron_math.inspect.checkpoint import inspect_checkpoint, render_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

DATA_STATE = {
    "iteration": 20,
    "stages": [
        {
            "stage": "cpt",
            "consumed_samples": 80,
            "sources": {"general": {"tokens": 4096, "epochs_done": 0.25}},
        }
    ],
}


@pytest.fixture
def save(tmp_path: Path) -> Path:
    """Two checkpoints in torch's distributed format, sealed like every checkpoint of ours."""
    for iteration in (10, 20):
        folder = temporary_folder(tmp_path / "checkpoints", iteration)
        state = {
            "decoder.layers.mlp.linear_fc1.weight": torch.zeros(3, 4, 5, dtype=torch.bfloat16),
            "embedding.word_embeddings.weight": torch.ones(7, 4),
            "optimizer.state.exp_avg.embedding.word_embeddings.weight": torch.ones(7, 4),
        }
        distributed_checkpoint.save(state, checkpoint_id=folder, no_dist=True)
        write_json(folder / "data_state.json", DATA_STATE | {"iteration": iteration})
        write_json(folder / "model.json", {"family": "llama"})
        publish(folder, tmp_path / "checkpoints", iteration)
    return tmp_path / "checkpoints"


def rendered(facts: dict) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_checkpoint(facts))
    return console.export_text()


def test_a_good_checkpoint_is_described(save: Path) -> None:
    facts = inspect_checkpoint(save)
    assert facts["iteration"] == 20
    assert facts["faults"] == []
    assert facts["parameters"] == 3 * 4 * 5 + 7 * 4
    assert facts["data_state"] == DATA_STATE
    weight = next(t for t in facts["tensors"] if t["name"].startswith("decoder"))
    assert weight["shape"] == [3, 4, 5]
    assert weight["dtype"] == "bfloat16"
    assert weight["bytes"] == 120
    text = rendered(facts)
    assert "whole: all files are there, digests as written" in text
    assert "decoder.layers.mlp.linear_fc1.weight" in text
    assert "general 4,096 tokens (0.25 epochs)" in text
    assert "optimizer state: 1 tensors, 112 bytes" in text


def test_an_earlier_one_is_chosen_by_number_or_by_folder(save: Path) -> None:
    assert inspect_checkpoint(save, iteration=10)["data_state"]["iteration"] == 10
    assert inspect_checkpoint(save / "iter_0000010")["iteration"] == 10


def test_one_changed_byte_is_named(save: Path) -> None:
    path = next((save / "iter_0000020").glob("*.distcp"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    facts = inspect_checkpoint(save)
    assert facts["faults"] == [f"{path.name} does not match its digest"]
    assert len(facts["tensors"]) == 3
    assert f"fault: {path.name} does not match" in rendered(facts)
    assert inspect_checkpoint(save, deep=False)["faults"] == []  # what a quick look cannot see


def test_a_missing_and_a_short_file_are_named_even_quickly(save: Path) -> None:
    folder = save / "iter_0000020"
    (folder / "model.json").unlink()
    path = next(folder.glob("*.distcp"))
    path.write_bytes(path.read_bytes()[:-1])
    faults = inspect_checkpoint(save, deep=False)["faults"]
    assert "model.json is missing" in faults
    assert any(path.name in fault and "bytes" in fault for fault in faults)


def test_a_damaged_list_of_tensors_is_not_opened(save: Path) -> None:
    (save / "iter_0000020" / ".metadata").write_bytes(b"not what was saved")
    facts = inspect_checkpoint(save)
    assert facts["tensors"] is None
    assert facts["parameters"] is None
    assert "the list of tensors cannot be read" in rendered(facts)


def test_a_save_that_never_ended_is_named(save: Path) -> None:
    (save / "iter_0000020" / "complete.json").unlink()
    facts = inspect_checkpoint(save)
    assert "complete.json is missing" in facts["faults"][0]
    assert facts["complete"] is False


def test_no_checkpoint_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        inspect_checkpoint(tmp_path)


def test_damage_gives_exit_code_1(save: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["checkpoint", str(save)]).exit_code == 0
    (save / "iter_0000020" / "model.json").unlink()
    told = runner.invoke(app, ["checkpoint", str(save)])
    assert told.exit_code == 1
    assert "model.json is missing" in told.stdout
