"""`megatron-math estimate` on road files: what it prints, and exit code 2 where it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.road import Road
from megatron_math.cli import main
from megatron_math.estimate.run import read_road
from megatron_math.model.presets import load_preset

ROAD = """
name: est
base: {preset: llama3-8b}
blend:
  sequence_length: 8192
  stages:
    - {name: cpt, tokens: 99B, mix: {math: {share: 1, path: x}}}
    - {name: anneal, tokens: 1B, sequence_length: 4096, mix: {math: {share: 1, path: x}}}
parallel: {tensor: 2, sequence: true, context: 2}
train: {global_batch_size: 1024, lr: 1e-4}
"""


@pytest.fixture
def road(tmp_path: Path) -> Path:
    path = tmp_path / "road.yaml"
    path.write_text(ROAD)
    return path


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["estimate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_facts_of_a_road(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, road, "--gpus", 64, "--price", 2.5, "--storage", 10)
    assert facts["memory_bytes"]["total"] <= facts["memory_bytes"]["gpu"]
    assert facts["tokens"] == 100_000_000_000
    assert facts["memory_bytes"]["weights"] == 8_030_527_488
    assert facts["layout"]["sequence_length"] == 8192
    hours = 1e11 / facts["tokens_per_second_per_gpu"] / 3600
    assert facts["gpu_hours"] == pytest.approx(hours)
    assert facts["days"] == pytest.approx(hours / 64 / 24)
    assert facts["energy_kwh"] == pytest.approx(hours * 0.7)
    assert facts["cost"] == pytest.approx(hours * 2.5)
    assert facts["checkpoint_bytes"] == 14 * 8_030_261_248
    assert facts["checkpoint_seconds"] == pytest.approx(14 * 8.030261248 / 10)
    assert facts["layer_activation_bytes"]["full"] == 4096 * 4096
    seconds = facts["step_seconds"]
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert "step" not in facts


def test_overrides_and_options_stand_above_the_file(
    road: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = asked(capsys, road, "--gpus", 64)
    assert plain["cost"] is None
    fp8 = asked(capsys, road, "--gpus", 64, "--precision", "fp8", "--tokens", "50B")
    assert fp8["tokens"] == 50_000_000_000
    assert fp8["tokens_per_second_per_gpu"] > 1.2 * plain["tokens_per_second_per_gpu"]
    b200 = asked(capsys, road, "--gpus", 64, "--gpu", "b200", "parallel.tensor=4")
    assert b200["gpu"] == "B200 SXM"
    assert b200["layout"]["tensor"] == 4
    one = asked(capsys, road)
    assert one["layout"]["gpus"] == 4  # one replica


def test_sections_that_change_the_layers(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = asked(capsys, road)
    torch_layers = asked(capsys, road, "precision.spec=torch")
    assert torch_layers["step_seconds"]["elementwise"] > plain["step_seconds"]["elementwise"]
    assert torch_layers["memory_bytes"]["activations"] > plain["memory_bytes"]["activations"]
    exact = asked(capsys, road, "precision.dtype=fp32")
    assert exact["memory_bytes"]["weights"] == 2 * plain["memory_bytes"]["weights"]
    assert exact["checkpoint_bytes"] == 12 * 8_030_261_248


def test_the_table_says_the_same(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, road, "--gpus", 64)
    assert main(["estimate", str(road), "--gpus", "64"]) == 0
    printed = capsys.readouterr().out
    assert f"{facts['tokens_per_second_per_gpu']:,.0f}" in printed
    assert f"{facts['memory_bytes']['total'] / 1024**3:,.2f}" in printed
    assert f"{facts['days']:,.2f}" in printed


def test_what_does_not_fit_is_refused_with_code_2(
    road: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["parallel.tensor=1", "parallel.sequence=false", "parallel.context=1"]
    for extra in ([], ["--json"]):
        assert main(["estimate", str(road), *arguments, "--gpus", "64", *extra]) == 2
        error = capsys.readouterr().err
        assert "it does not fit" in error
        assert "the largest term is activations" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "6"], "tensor x pipeline x context = 4 does not divide 6 GPUs"),
        (["--gpu", "h300"], "no GPU 'h300'"),
        (["--precision", "fp4"], "--precision fp4 is not known"),
        (["--tokens", "many"], "--tokens many: a whole number"),
        (["train.global_batch_size=7", "--gpus", "8"], "does not divide the global batch 7"),
        (["base.preset=llama9"], "no model preset 'llama9'"),
    ],
)
def test_bad_input(
    road: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["estimate", str(road), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_mixtral(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["base.preset=mixtral-8x7b", "parallel={expert: 8, pipeline: 4}", "--gpus", 64]
    mix = "{math: {share: 1, path: x}}"
    length = f"blend.stages=[{{name: cpt, tokens: 99B, sequence_length: 4096, mix: {mix}}}]"
    facts = asked(capsys, road, *shape, length)
    assert facts["layout"]["expert"] == 8
    assert facts["step_seconds"]["expert_links"] > 0
    assert facts["assumptions"] == [
        "the 8 experts of a layer are equally busy; at worst one rank has 4 times as many tokens"
    ]
    assert main(["estimate", *map(str, [road, *shape, length])]) == 0
    printed = capsys.readouterr().out
    assert "expert 8" in printed
    assert "expert links" in printed
    assert "equally busy" in printed
    small = ["base.preset=mixtral-8x7b", "model.num_layers=4", "--gpus", 8, length, "--search"]
    found = asked(capsys, road, *small)
    assert {choice["layout"]["expert"] for choice in found["layouts"]} == {1, 2, 4, 8}


def test_adapters(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = asked(capsys, road, "--gpus", 8, "precision.spec=torch", "parallel.tensor=4")
    lora = ["train.lora={rank: 16, alpha: 32}", "parallel.tensor=4"]
    facts = asked(capsys, road, "--gpus", 8, *lora)
    assert facts["layout"]["lora"]["rank"] == 16
    assert facts["layout"]["fused"] is False
    assert facts["memory_bytes"]["optimizer"] < plain["memory_bytes"]["optimizer"] / 50
    assert facts["memory_bytes"]["activations"] < plain["memory_bytes"]["activations"]
    assert facts["tokens_per_second_per_gpu"] > plain["tokens_per_second_per_gpu"]
    assert facts["assumptions"][0].startswith("35,651,584 of 8,030,261,248 parameters are trained")
    found = asked(capsys, road, "--gpus", 8, *lora, "--search")
    assert all(choice["layout"]["lora"]["rank"] == 16 for choice in found["layouts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.lora={rank: 16, alpha: 32}", "precision.spec=te"], "spec te takes no adapters"),
        (["train.lora={rank: 9999, alpha: 32}"], "train.lora.rank 9999 is more than the rank"),
        (["train.lora={rank: 16, alpha: 32}", "--precision", "fp8"], "does not go with train.lora"),
        (["base.preset=mixtral-8x7b", "--precision", "fp8"], "fp8 does not go with experts yet"),
        (["base.preset=mixtral-8x7b"], "tensor 2 of a model with experts needs"),
        (["parallel.expert=2"], "expert 2 of a model without experts"),
    ],
)
def test_what_training_refuses_is_not_estimated(
    road: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["estimate", str(road), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(ROAD.replace("train: {global_batch_size: 1024, lr: 1e-4}", ""))
    assert main(["estimate", str(path)]) == 2
    assert "has no section 'train', which holds the batch sizes" in capsys.readouterr().err


def test_a_hugging_face_folder(
    road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(load_preset("llama3-8b").to_hf()))
    facts = asked(capsys, road, "--gpus", 64)
    road.write_text(ROAD.replace("preset: llama3-8b", f"hf: {folder}"))
    assert asked(capsys, road, "--gpus", 64) == facts


def test_a_base_that_has_not_been_run(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, road, "--gpus", 64)
    road.write_text(ROAD.replace("preset: llama3-8b", "run: ../elsewhere"))
    assert main(["estimate", str(road), "--gpus", "64"]) == 2
    assert "or name the base's shape with model.preset=NAME" in capsys.readouterr().err
    assert asked(capsys, road, "--gpus", 64, "model.preset=llama3-8b") == facts


def test_search_ranks_and_takes_the_fastest(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = asked(capsys, road, "--gpus", 64)
    found = asked(capsys, road, "--gpus", 64, "--search")
    rates = [choice["tokens_per_second_per_gpu"] for choice in found["layouts"]]
    assert rates == pytest.approx(sorted(rates, reverse=True))
    assert found["tokens_per_second_per_gpu"] == rates[0] >= plain["tokens_per_second_per_gpu"]
    assert found["layout"] == found["layouts"][0]["layout"]
    assert main(["estimate", str(road), "--gpus", "64", "--search"]) == 0
    assert "layouts fit" in capsys.readouterr().out


def test_the_stage_with_the_longest_sequences_counts_in_its_own_batch(road: Path) -> None:
    own = {"cpt": 512, "anneal": 1024}
    for stage, batch in own.items():
        changed = [f"train.stages={{{stage}: {{global_batch_size: 512}}}}"]
        layout = read_road(Road.load(road, changed)).layout
        assert (layout.sequence_length, layout.global_batch) == (8192, batch)
