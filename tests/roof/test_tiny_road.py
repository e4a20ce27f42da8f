"""The whole road from one file, small; walked twice, and the second time nothing is done."""

import json
import time
from pathlib import Path

import pytest
import yaml
from test_bad_input import ROAD

from megatron_math.cli import main


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    road = json.loads(json.dumps(ROAD))
    road["curate"] = {
        "sources": {"problems": {"stage": "10_synthesize", "file": "problems.jsonl"}},
        "decontaminate": {
            "benchmarks": [{"name": "heldout_templates", "stage": "10_synthesize", "rule": "exact"}]
        },
    }
    road["index"]["sources"]["problems"] = {"stage": "20_curate", "file": "problems.jsonl"}
    road["evaluate"] = {
        "benchmarks": [{"name": "heldout_templates", "stage": "10_synthesize", "max_new_tokens": 8}]
    }
    (folder / "road.yaml").write_text(yaml.safe_dump(road))
    assert main(["run", str(folder / "road.yaml"), "--runs", str(folder / "runs")]) == 0
    return folder


def test_the_run_folder_is_the_designs(walked: Path) -> None:
    root = walked / "runs" / "road"
    stages = sorted(path.name for path in root.iterdir())
    assert stages == [
        "00_base", "10_synthesize", "20_curate", "30_index", "40_blend", "50_train",
        "60_export", "70_evaluate", "80_report",
    ]  # fmt: skip
    for stage in stages:
        manifest = json.loads((root / stage / "manifest.json").read_text())
        assert manifest["state"] == "done"
        assert manifest["stage"] == stage
        assert (root / stage / "stats.json").is_file()
        assert (root / stage / "DONE").read_text().strip() == manifest["fingerprint"]
    assert (root / "20_curate" / "drops").is_dir()
    assert (root / "80_report" / "index.html").is_file()


def test_again_is_up_to_date_and_quick(walked: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = walked / "runs" / "road"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    started = time.perf_counter()
    with caplog.at_level("INFO", logger="megatron_math"):
        assert main(["run", str(walked / "road.yaml"), "--runs", str(walked / "runs")]) == 0
    assert time.perf_counter() - started < 20
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before


def test_a_dry_run_says_what_a_change_would_cost(
    walked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = walked / "runs" / "road"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    arguments = ["run", str(walked / "road.yaml"), "--runs", str(walked / "runs"), "--dry-run"]
    assert main([*arguments, "blend.tokens=4096"]) == 0
    lines = capfd.readouterr().out.splitlines()
    said = {line.split()[0]: line for line in lines if line[:1].isdigit()}
    assert "up to date" in said["30_index"]
    assert "would run" in said["40_blend"]
    assert "2048 -> 4096" in said["40_blend"]
    assert "would run" in said["50_train"]
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before


def test_the_scores_can_be_graded_again(walked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    after = walked / "runs/road/70_evaluate/after/heldout_templates"
    assert main(["grade", str(after / "predictions.jsonl"), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["correct"] == json.loads((after / "scores.json").read_text())["correct"]
