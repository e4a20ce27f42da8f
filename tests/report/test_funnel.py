"""The page about records that a synthesis method wrote says what its files say."""

import json
from pathlib import Path

import yaml
from read_page import Page
from test_report import data_of

from megatron_math.base.road import Road
from megatron_math.curate.run import run as curate
from megatron_math.report.run import run as report
from megatron_math.synthesize.run import run as synthesize

SOLVED = (
    "Each box has 3 pens: {n} * 3 = {a} pens.\nTwo are lost: {a} - 2 = {b}.\n"
    "One is found: {b} + 1 = {c}.\nHalf a box more is 5: {c} + 5 = {d}.\nThe answer is {d}."
)


def road_of(folder: Path) -> Road:
    """Ten seeds with steps to splice, two without; curated, of which one source is the stage's."""
    rows = [
        {
            "problem": f"{n} boxes of 3 pens?",
            "solution": SOLVED.format(n=n, a=3 * n, b=3 * n - 2, c=3 * n - 1, d=3 * n + 4),
        }
        for n in range(2, 12)
    ]
    rows += [{"problem": f"What is {n} + 1?", "solution": f"{n + 1}"} for n in range(2)]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "other.jsonl").write_text('{"text": "plain <b>text</b>"}\n')
    described = {
        "name": "written",
        "seed": 3,
        "synthesize": {
            "method": "retrospective",
            "seeds": {"path": str(folder / "seeds.jsonl")},
        },
        "curate": {
            "sources": {
                "problems": {"stage": "10_synthesize", "file": "problems.jsonl"},
                "other": {"path": str(folder / "other.jsonl")},
            }
        },
    }
    (folder / "road.yaml").write_text(yaml.safe_dump(described))
    return Road.load(folder / "road.yaml", [], folder / "runs")


def test_the_funnel_is_what_the_files_hold(tmp_path: Path) -> None:
    road = road_of(tmp_path)
    stage = synthesize(road)
    curate(road)
    report(road)
    lines = {
        name: (stage.folder / name).read_text().splitlines()
        for name in ("problems.jsonl", "drops/problems.jsonl")
    }
    facts = data_of(road)
    assert facts["synthesis"] is None
    funnel = facts["funnel"]
    steps = {row["step"]: row["left"] for row in funnel["steps"]}
    accepted = len(lines["problems.jsonl"])
    assert 0 < accepted <= 10
    assert (steps["seeds"], steps["accepted"], steps["left by curation"]) == (
        12,
        accepted,
        accepted,
    )
    assert sum(funnel["rejects"].values()) == len(lines["drops/problems.jsonl"]) == 12 - accepted
    assert funnel["accepted"][0]["id"] == json.loads(lines["problems.jsonl"][0])["id"]
    assert funnel["accepted"][0]["lineage"]["seed_id"] == "seeds.jsonl:1"
    page = Page.read(road.folder("80_report") / "index.html")
    assert "Problems written by retrospective" in page.text
    assert "[back]" in page.text
    numbers = [number for number, _ in page.numbers]
    for number in (*steps.values(), *funnel["rejects"].values()):
        assert number in numbers


def test_templates_have_no_funnel(tmp_path: Path) -> None:
    described = {"name": "t", "seed": 1, "synthesize": {"problems": 50, "heldout": 4}}
    (tmp_path / "road.yaml").write_text(yaml.safe_dump(described))
    road = Road.load(tmp_path / "road.yaml", [], tmp_path / "runs")
    synthesize(road)
    report(road)
    assert data_of(road)["funnel"] is None
    assert data_of(road)["synthesis"]["problems"] == 50
