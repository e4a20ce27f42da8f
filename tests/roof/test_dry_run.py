"""`train --dry-run`: single ranks of any world in one process; the refusals are the real run's."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_bad_input import ROAD

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.cli import main
from megatron_math.dry_run import dry_run
from megatron_math.model.presets import load_preset
from megatron_math.pipeline import run_road

CLUSTER = """
name: cluster
base: {preset: llama3.1-8b}
blend:
  sequence_length: 8192
  stages:
    - {name: cpt, tokens: 99B, mix: {math: {share: 1, path: x}}}
    - {name: sft, sequence_length: 4096, mix: {math: {epochs: 1, path: x}}}
parallel: {tensor: 8, sequence: true, pipeline: 4}
train: {global_batch_size: 1024, lr: 1e-4}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["train", *map(str, arguments), "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_512_ranks_of_an_8b_model_in_one_process(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ranks of one replica hold the model once; norms are on every tensor rank."""
    before = files_below(tmp_path)
    ranks = [stage * 128 + tensor for stage in range(4) for tensor in range(8)]
    found = facts(capsys, cluster, "--gpus", 512, "--ranks", ",".join(map(str, ranks)))
    assert found["data"] == 16
    assert [stage["micro_batches"] for stage in found["stages"]] == [64, 64]
    assert [stage["iterations"] for stage in found["stages"]] == [11802, None]
    assert [stage["tokens_per_step"] for stage in found["stages"]] == [1024 * 8192, 1024 * 4096]
    assert found["iterations"] is None
    assert "00_base and 40_blend" in found["no_plan"]
    model = load_preset("llama3.1-8b")
    padding = 2 * (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    norms = 7 * (2 * model.num_layers + 1) * model.hidden_size
    held = sum(rank["num_parameters"] for rank in found["ranks"])
    assert held == model.num_parameters() + padding + norms
    assert [rank["pipeline_stage"] for rank in found["ranks"]] == [r // 128 for r in ranks]
    assert {rank["num_layers"] for rank in found["ranks"]} == {8}
    assert files_below(tmp_path) == before


def test_uneven_and_virtual_stages(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uneven = ["parallel.first_stage_layers=6", "parallel.last_stage_layers=6"]
    found = facts(capsys, cluster, "--gpus", 512, *uneven)
    assert [(r["rank"], r["num_layers"]) for r in found["ranks"]] == [(0, 6), (128, 10), (384, 6)]
    found = facts(capsys, cluster, "--gpus", 512, "parallel.virtual=2", "--ranks", 511)
    assert found["ranks"][0]["num_layers"] == 8
    assert (found["ranks"][0]["data_rank"], found["ranks"][0]["tensor_rank"]) == (15, 7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "500"], "= 32 does not divide world 500"),
        (["parallel.data=3"], "parallel.data 3 was asked, and 512 processes leave 16"),
        (["parallel.tensor=3"], "= 12 does not divide world 512"),
        (["--gpus", "12", "parallel.tensor=3"], "tensor 3 = 3 does not divide num_attention_heads"),
        (["train.global_batch_size=24"], "global_batch_size 24 is not a multiple of"),
        (["parallel.virtual=2", "train.global_batch_size=32"], "x pipeline 4, since virtual is 2,"),
        (["parallel.virtual=3"], "does not divide num_layers 32"),
        (["parallel.context=2", "precision.spec=te"], "under the layer spec te"),
        (["blend.sequence_length=262144"], "is more than the model's max_sequence_length"),
        (["--ranks", "0,512"], "has ranks 0 to 511"),
        (["--ranks", "first"], "rank numbers with commas"),
        (["base.preset=llama9"], "no model preset 'llama9'"),
    ],
)
def test_refusals(
    cluster: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    if "--gpus" not in arguments:
        arguments = [*arguments, "--gpus", "512"]
    assert main(["train", str(cluster), "--dry-run", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_options_of_the_dry_run_need_it(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--gpus", "2"], ["--ranks", "0"], ["--json"]):
        assert main(["train", str(cluster), *option]) == 2
        assert "has no effect without --dry-run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small road, done up to its blend."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "road.yaml").write_text(json.dumps(ROAD))
    run_road(Road.load(folder / "road.yaml", runs=folder / "runs"), last="blend")
    return folder


def test_with_a_plan_it_is_the_feeds_cut(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replicas' first steps are disjoint and together the plan's first samples."""
    before = files_below(planned)
    road = [planned / "road.yaml", "--runs", planned / "runs", "train.micro_batch_size=1"]
    found = facts(capsys, *road, "--gpus", 2, "--ranks", "0,1")
    assert found["no_plan"] is None
    assert [rank["first_samples"] for rank in found["ranks"]] == [[0, 2], [1, 3]]
    assert [rank["first_sources"] for rank in found["ranks"]] == [{"problems": 2}] * 2
    assert found["iterations"] == 16
    assert any("problems" in path and "GB" in path for path in found["reads"])
    assert main(["train", *map(str, road), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "50_train       would run (not run yet)" in printed
    assert "problems" in printed
    assert files_below(planned) == before


def test_a_changed_index_is_refused_as_in_training(planned: Path) -> None:
    index = next((planned / "runs").rglob("*_text_document.bin"))
    content = index.read_bytes()
    try:
        index.write_bytes(content[2:] + content[:2])
        with pytest.raises(UserError, match="run blend again"):
            dry_run(Road.load(planned / "road.yaml", runs=planned / "runs"))
    finally:
        index.write_bytes(content)


def test_files_are_laid_over_the_road(cluster: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("parallel: {tensor: 4, sequence: false}\nbase: {preset: tiny}\n")
    road = Road.load(cluster, [str(more), "parallel.pipeline=2"])
    assert road.raw["parallel"] == {"tensor": 4, "sequence": False, "pipeline": 2}
    assert road.raw["train"]["global_batch_size"] == 1024
    more.write_text("name: {deep: 1}\n")
    with pytest.raises(UserError, match="'name' is a value in the road"):
        Road.load(cluster, [str(more)])
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        Road.load(cluster, ["none.yaml"])
