"""A study on SLURM: which jobs stand behind which, what is not submitted twice."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROAD
from fake_slurm import FakeSlurm

from megatron_math.cli import main

STUDY: dict[str, Any] = {
    "name": "question",
    "seeds": [1],
    "budgets": {"cpt": {"tokens": 2048}, "sft": {"tokens": 1024}},
    "shared": {"texts": {"index": ROAD["index"], "launch": {"time": "1:00:00"}}},
    "road": {key: ROAD[key] for key in ("base", "blend", "parallel", "train", "launch")},
    "arms": {
        "plain": {"budget": "cpt"},
        "tuned": {"budget": "sft", "after": "plain", "blend": {"tokens": 1024}},
    },
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def dependency(line: str) -> str:
    found = [word for word in line.split("\t") if word.startswith("--dependency=")]
    return found[0].removeprefix("--dependency=") if found else ""


def test_every_road_is_jobs_behind_those_that_it_needs(study: Path, slurm: FakeSlurm) -> None:
    assert main(["study", str(study), "--launch"]) == 0
    lines = slurm.lines("sbatch")
    assert [dependency(line) for line in lines] == [
        "",  # 101: texts
        "afterok:101",  # plain: what comes before training, the training, what comes after
        "afterok:101:102",
        "afterok:101:102:103",
        "afterok:101:104",  # tuned
        "afterok:101:104:105",
        "afterok:101:104:105:106",
    ]
    assert lines[1].endswith("run.sbatch\t--to\tblend")
    assert lines[2].endswith("plain-s1/launch/train.sbatch")
    assert lines[3].endswith("run.sbatch\t--from\texport")
    assert all("--kill-on-invalid-dep=yes" in line for line in lines[1:])
    text = (study.parent / "runs/question/tuned-s1/launch/run.sbatch").read_text()
    road = study.parent / "runs/question/tuned-s1/road.yaml"
    assert f"python -m megatron_math.study.one_road {road} --runs {study.parent}/runs" in text
    assert "--tokens 1024 --within 32 " in text
    assert "#SBATCH --time=2:00:00" in text


def test_one_that_could_not_run_is_refused_before_any_is_submitted(
    study: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "study",
                str(study),
                "--launch",
                "arms.tuned.launch.gpus_per_node=1",
                "arms.tuned.launch.nodes=1",
            ]
        )
        == 2
    )
    assert "tensor" in capsys.readouterr().err
    assert slurm.lines("sbatch") == []


def test_the_whole_road_is_a_verb_of_launch(study: Path, slurm: FakeSlurm) -> None:
    road = study.parent / "road.yaml"
    road.write_text(yaml.safe_dump(ROAD))
    assert main(["launch", str(road), "run"]) == 0
    text = Path(slurm.lines("sbatch")[0]).read_text()
    assert f"megatron-math run {road}" in text
