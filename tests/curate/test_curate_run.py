"""The room: nothing vanishes, reasons are written, benchmarks are read to the last row."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.curate.run import run

BENCHMARK = """
name: NAME
version: 1
rows: NAME.jsonl
problem: {fields: [problem]}
reference: {field: answer}
id: id
prompt: "Question: {problem}"
example: "{problem}{solution}"
max_new_tokens: 8
answer_rules: [stated]
"""
EXAM = [
    {"id": "e0", "answer": "72", "problem": "Mira's bakery sells 48 loaves on Monday and half as "
     "many on Tuesday. How many loaves does it sell in both days?"},
    {"id": "e1", "answer": "12", "problem": "What is 17 - 9 + 4?"},
]  # fmt: skip
HELDOUT = [{"id": "h0", "answer": "7", "problem": "Ann has 3 pens and buys 4 more pens in a shop. "
            "How many pens does Ann have now in all?"}]  # fmt: skip
WEB = [
    {"id": "w0", "text": "A page about nothing in particular."},
    {"id": "w1", "text": "a page ABOUT nothing\n in particular."},
    {"id": "w2", "text": f"Today's quiz:\n{EXAM[0]['problem']}\nSend in your answers."},
    {"id": "w3", "text": "Quick, what is 17 - 9 + 4?"},
    {"id": "w4", "text": "A page about bread."},
]
PROBLEMS = [
    {"id": "p0", "problem": HELDOUT[0]["problem"], "solution": "3 + 4 = 7.", "answer": "7"},
    {"id": "p1", "problem": "Ann has 5 pens and buys 4 more pens in a shop. How many pens does Ann "
     "have now in all?", "solution": "5 + 4 = 9.", "answer": "9"},
    {"id": "p2", "problem": "A page", "solution": "about bread."},
    {"id": "p3", "input": "Name a prime.", "output": "Two."},
]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def road(tmp_path: Path) -> Road:
    for name, rows in (("exam", EXAM), ("heldout", HELDOUT)):
        write_rows(tmp_path / f"{name}.jsonl", rows)
        (tmp_path / f"{name}.yaml").write_text(BENCHMARK.replace("NAME", name))
    write_rows(tmp_path / "web.jsonl", WEB)
    write_rows(tmp_path / "problems.jsonl", PROBLEMS)
    section = {
        "sources": {
            "web": {"path": str(tmp_path / "web.jsonl")},
            "problems": {"path": [str(tmp_path / "prob*.jsonl")]},
        },
        "decontaminate": {
            "data": str(tmp_path),
            "benchmarks": [
                str(tmp_path / "exam.yaml"),
                {"name": str(tmp_path / "heldout.yaml"), "rule": "exact"},
            ],
        },
    }
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "cpt", "curate": section}, sort_keys=False))
    return Road.load(path, runs=tmp_path / "runs")


def test_every_record_is_kept_or_dropped_with_its_reason(road: Road) -> None:
    folder = run(road).folder
    kept = {
        name: [row["id"] for row in read_rows(folder / f"{name}.jsonl")]
        for name in ("web", "problems")
    }
    assert kept == {"web": ["w0", "w4"], "problems": ["p1", "p3"]}
    drops = read_rows(folder / "drops" / "web.jsonl") + read_rows(
        folder / "drops" / "problems.jsonl"
    )
    found = {row["id"]: row for row in drops}
    assert set(found) == {"w1", "w2", "w3", "p0"} | {"p2"}
    assert found["w1"]["reason"] == found["p2"]["reason"] == "duplicate"
    assert found["w1"]["first"] == {"source": "web", "id": "w0"}
    assert found["p2"]["first"] == {"source": "web", "id": "w4"}, "also across sources"
    assert (found["w2"]["benchmark"], found["w2"]["row"], found["w2"]["rule"]) == (
        "exam",
        "e0",
        "ngram10",
    )
    start, end = found["w2"]["span"]
    assert found["w2"]["text"][start:end] == found["w2"]["matched"]
    assert found["w2"]["matched"].startswith("Mira's bakery sells")
    assert (found["w3"]["row"], found["p0"]["row"], found["p0"]["rule"]) == ("e1", "h0", "exact")
    stats = json.loads((folder / "stats.json").read_text())
    assert (stats["read"], stats["kept"], stats["dropped"]) == (9, 4, 5)
    assert stats["sources"]["web"]["reasons"] == {
        "benchmark exam": 2, "contaminated": 2, "duplicate": 1
    }  # fmt: skip
    assert [(b["benchmark"], b["rule"], b["rows"], b["dropped"]) for b in stats["benchmarks"]] == [
        ("exam", "ngram10", 2, 2),
        ("exam", "ngram13", 2, 2),
        ("exam", "numbers", 2, 2),
        ("heldout", "exact", 1, 1),
    ]


def test_a_stricter_rule_takes_the_template_neighbour_too(road: Road) -> None:
    """Why held-out template problems are looked for by `exact`."""
    curate = road.raw["curate"]
    curate["decontaminate"]["benchmarks"][1]["rule"] = "ngram10"
    folder = run(road).folder
    assert [row["id"] for row in read_rows(folder / "problems.jsonl")] == ["p3"]


def test_without_dedup_and_benchmarks_all_stays(road: Road) -> None:
    curate = road.raw["curate"]
    del curate["decontaminate"]
    curate["dedup"] = "none"
    folder = run(road).folder
    stats = json.loads((folder / "stats.json").read_text())
    assert (stats["kept"], stats["dropped"], stats["benchmarks"]) == (9, 0, [])
    assert (folder / "drops" / "web.jsonl").read_bytes() == b""


def test_up_to_date_until_a_source_or_a_benchmark_changes(road: Road, tmp_path: Path) -> None:
    assert not run(road).was_done
    assert run(road).was_done
    write_rows(
        tmp_path / "exam.jsonl",
        [*EXAM, {"id": "e2", "answer": "1", "problem": "about bread. Why is it so?"}],
    )
    assert not run(road).was_done
    write_rows(tmp_path / "web.jsonl", WEB[:2])
    stage = run(road)
    assert not stage.was_done
    assert [row["id"] for row in read_rows(stage.folder / "web.jsonl")] == ["w0"]


def test_the_order_of_sources_matters_and_old_files_go(road: Road) -> None:
    run(road)
    sources = road.raw["curate"]["sources"]
    road.raw["curate"]["sources"] = dict(reversed(sources.items()))
    stage = run(road)
    assert not stage.was_done
    assert "p2" in [row["id"] for row in read_rows(stage.folder / "problems.jsonl")]
    del road.raw["curate"]["sources"]["web"]
    folder = run(road).folder
    assert sorted(path.name for path in folder.rglob("*.jsonl")) == ["problems.jsonl"] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "e2", "answer": "1"}', "line 3: no field 'problem'"),
        ('{"id": "e2", "answer": "1", "prob', "line 3: not a line of JSON"),
        ('{"id": "e2", "answer": "1", "problem": " "}', "line 3: an empty problem"),
    ],
)
def test_an_unreadable_benchmark_row_stops_the_run(
    road: Road, tmp_path: Path, line: str, message: str
) -> None:
    run(road)
    with (tmp_path / "exam.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        run(road)
    assert (road.folder("20_curate") / "DONE").exists(), "the earlier result is untouched"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("curate.sources.web.path=nowhere.jsonl", "sources.web: there is no file nowhere.jsonl"),
        ("curate.sources.web.paths=x", "unknown key 'paths'; did you mean 'path'"),
        ("curate.sources.web={stage: 10_synthesize}", "together with 'file'"),
        ("curate.sources.web={stage: 10_synthesize, file: problems.jsonl}", "is not finished"),
        ("curate.sources.web.path=[]", "name at least one file"),
        ("curate.decontaminate.rule=ngram14", "'ngram10', 'ngram13', 'numbers' or 'exact'"),
        ("curate.decontaminate.benchmarks=[sudoku]", "there is no benchmark 'sudoku'"),
        ("curate.decontaminate={benchmarks: all, rule: exact, rules: [exact]}", "not both"),
        ("curate.dedup=minhash", "'exact' or 'none'"),
        ("curate.near_duplicates.threshold=0", "greater than 0"),
    ],
)
def test_bad_requests_are_explained(road: Road, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(Road.load(road.yaml_path, [override], road.runs))
    assert not road.folder("20_curate").exists()


def test_a_bad_record_is_named_and_leaves_no_half_file(road: Road, tmp_path: Path) -> None:
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write('{"id": "p4", "problem": "no solution"}\n')
    with pytest.raises(UserError, match=r"problems\.jsonl, line 5: a record needs"):
        run(road)
    folder = road.folder("20_curate")
    assert not (folder / "DONE").exists()
    assert not (folder / "problems.jsonl").exists()
    assert not list(folder.rglob("*.tmp"))
