"""Several roads in one file: what is laid under, what is run again, what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.cli import main
from megatron_math.roads import holds_roads, write_roads

LOOP = {
    "name": "loop",
    "seed": 5,
    "defaults": {"synthesize": {"heldout": 3, "levels": {1: 1.0}}},
    "roads": {
        "first": {"synthesize": {"problems": 20}},
        "again": {"seed": 6, "synthesize": {"problems": 10, "heldout": 0}},
        "both": {
            "curate": {
                "sources": {
                    name: {"path": f"${{LOOP}}/{name}/10_synthesize/problems.jsonl"}
                    for name in ("first", "again")
                }
            }
        },
    },
}


def write_loop(folder: Path, **changes: object) -> Path:
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump(LOOP | changes, sort_keys=False))
    return path


def stamps(runs: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}


def test_one_command_runs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    path, runs = write_loop(tmp_path), tmp_path / "runs"
    command = ["run", str(path), "--runs", str(runs)]
    assert main(command) == 0
    curated = runs / "loop/both/20_curate"
    assert json.loads((curated / "stats.json").read_text())["kept"] == 30
    before = stamps(runs)
    assert main(command) == 0
    assert stamps(runs) == before
    (runs / "loop/again/10_synthesize/DONE").unlink()
    assert main(command) == 0
    changed = {name for name, when in stamps(runs).items() if before[name] != when}
    assert changed
    assert all("/again/10_synthesize/" in name for name in changed)
    assert main([*command, "roads.again.synthesize.problems=12"]) == 0
    assert json.loads((curated / "stats.json").read_text())["kept"] == 32


def test_each_road_is_a_road_of_its_own(tmp_path: Path) -> None:
    roads = write_roads(write_loop(tmp_path), [], tmp_path / "runs")
    assert [road.name for road in roads] == ["loop/first", "loop/again", "loop/both"]
    assert [road.seed for road in roads] == [5, 6, 5]
    assert roads[0].raw["synthesize"] == {"problems": 20, "heldout": 3, "levels": {1: 1.0}}
    assert roads[1].raw["synthesize"]["heldout"] == 0
    assert not roads[2].has("synthesize")
    file = tmp_path / "runs/loop/first/road.yaml"
    assert Road.load(file, runs=tmp_path / "runs").raw == roads[0].raw
    assert main(["synthesize", str(file), "--runs", str(tmp_path / "runs")]) == 0
    assert roads[0].done("10_synthesize")


def test_environment_stays_unread_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBLEMS", "7")
    path = write_loop(tmp_path)
    path.write_text(path.read_text().replace("problems: 20", "problems: ${PROBLEMS}"))
    road = write_roads(path, [], tmp_path / "runs")[0]
    assert road.raw["synthesize"]["problems"] == "7"
    assert "${PROBLEMS}" in road.yaml_path.read_text()


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(write_loop(tmp_path)), "--runs", str(tmp_path / "runs"), "--dry-run"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "loop/first/10_synthesize would run (not run yet)" in printed
    assert "loop/both would run (after the roads before it)" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {}}, "unknown key 'train'; a file with roads has name"),
        ({"name": "a/b"}, "name must be like"),
        ({"roads": {}}, "with one at least"),
        ({"roads": {"../x": {}}}, "a road's name must be like"),
        ({"roads": {"x": {"name": "y"}}}, "without a name"),
        ({"roads": {"x": {"trian": {}}}, "defaults": {}}, "unknown section 'trian'"),
        ({"defaults": {"train": {}}}, "defaults.train has no effect"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_loop(tmp_path, **changes)
    assert holds_roads(path)
    with pytest.raises(UserError, match=message):
        write_roads(path, [], tmp_path / "runs")


def test_parts_of_a_loop_are_asked_for_at_its_roads(tmp_path: Path) -> None:
    assert main(["run", str(write_loop(tmp_path)), "--from", "index"]) == 2
