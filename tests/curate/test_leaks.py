"""Planted leaks of real benchmarks are found in every disguise; other texts are left alone."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.benchmarks.load import Benchmark, benchmark_names, load_benchmark
from megatron_math.curate.config import DecontaminateConfig
from megatron_math.curate.decontaminate import DEFAULT_RULES, BenchmarkText, Searcher
from megatron_math.curate.run import run

NAMES = ("gsm8k", "math500", "svamp")
DRAW = random.Random(1)


def other_punctuation(text: str) -> str:
    """Marks between words, not those inside of numbers."""
    return re.sub(r"[,.;:!?](?!\d)", lambda _: DRAW.choice([",", ";", "!", " - ", " ", "."]), text)


def other_latex_spacing(text: str) -> str:
    text = re.sub(r"\\left|\\right|\\,|\\!", "", text)
    text = re.sub(r"([=+<>^_{}()|])", lambda m: DRAW.choice([" %s ", "%s", "%s "]) % m[0], text)
    text = re.sub(r"\\(?=[a-zA-Z])", lambda _: DRAW.choice(["\\", " \\", "\\, \\"]), text)
    if DRAW.random() < 0.5 and "\\" in text:
        text = text.replace("(", "\\left(").replace(")", "\\right)").replace("\\frac", "\\dfrac")
    return text.replace("$", DRAW.choice(["$", "$ ", "\\( "]))


def other_numbers(text: str) -> str:
    return re.sub(
        r"\d+(?:[.,]\d+)*", lambda m: str(DRAW.randrange(2, 10 ** min(len(m[0]) + 1, 9))), text
    )


@pytest.fixture(scope="module")
def benchmarks(shared_data: Path) -> list[Benchmark]:
    return [load_benchmark(name, None, shared_data) for name in NAMES]


@pytest.fixture(scope="module")
def searcher(benchmarks: list[Benchmark]) -> Searcher:
    rows = (BenchmarkText(b.name, row.id, row.problem) for b in benchmarks for row in b.rows)
    return Searcher(rows, *DEFAULT_RULES)


def found_share(
    searcher: Searcher, benchmark: Benchmark, disguise: Callable[[str], str], *, changed: bool
) -> float:
    """Of the rows (those that the disguise changes, if asked) how many are found, as themselves."""
    rows = [(row.id, row.problem, disguise(row.problem)) for row in benchmark.rows]
    rows = [row for row in rows if row[1] != row[2] or not changed]
    hits = searcher.search([text for _, _, text in rows])
    return sum(
        any(hit.row == row_id and hit.benchmark == benchmark.name for hit in one)
        for (row_id, _, _), one in zip(rows, hits, strict=True)
    ) / len(rows)


@pytest.mark.parametrize("disguise", [str, str.upper, other_punctuation, other_latex_spacing])
def test_every_row_is_found(
    searcher: Searcher, benchmarks: list[Benchmark], disguise: Callable[[str], str]
) -> None:
    for benchmark in benchmarks:
        assert found_share(searcher, benchmark, disguise, changed=False) == 1.0, benchmark.name


def test_every_row_is_found_in_a_page(
    searcher: Searcher, benchmarks: list[Benchmark], shared_data: Path
) -> None:
    words = (shared_data / "general" / "wikitext2_valid.txt").read_text(encoding="utf-8").split()

    def page(text: str) -> str:
        first = DRAW.randrange(len(words) - 2000)
        at = first + DRAW.randrange(2000)
        return " ".join([*words[first:at], text, *words[at : first + 2000]])

    for benchmark in benchmarks:
        assert found_share(searcher, benchmark, page, changed=False) == 1.0, benchmark.name


def test_twins_with_other_numbers_are_found(
    searcher: Searcher, benchmarks: list[Benchmark]
) -> None:
    for benchmark in benchmarks:
        assert found_share(searcher, benchmark, other_numbers, changed=True) > 0.95, benchmark.name


def test_other_texts_are_left_alone_by_the_thirteen_words_rule(
    searcher: Searcher, shared_data: Path
) -> None:
    """What is flagged in GSM8K train are near-copies: a train for a plane, Bella for Max."""
    general = (shared_data / "general" / "wikitext2_test.txt").read_text(encoding="utf-8")
    stacks = (shared_data / "math" / "stacks_algebra.tex").read_text(encoding="utf-8")
    train = [json.loads(line) for line in (shared_data / "gsm8k" / "train.jsonl").open()]
    texts = [
        *(part for part in general.split("\n") if len(part.split()) > 10),
        *re.split(r"\\(?:sub)?section", stacks),
        *(f"{row['question']}\n{row['answer']}" for row in train),
    ]
    flagged = {
        (hit.rule, number) for number, hits in enumerate(searcher.search(texts)) for hit in hits
    }
    by_rule = {rule: sum(one == rule for one, _ in flagged) for rule in DEFAULT_RULES}
    assert by_rule == {"ngram10": 13, "ngram13": 3, "numbers": 3}


ROW = "Ann has 3 red pens and buys 4 more pens in a shop. How many pens does Ann have now?"


def road_with(tmp_path: Path, allow: list[dict[str, Any]] | None) -> Road:
    (tmp_path / "exam.yaml").write_text(
        "name: exam\nversion: 1\nrows: exam.jsonl\nproblem: {fields: [problem]}\n"
        "reference: {field: answer}\nid: id\nprompt: '{problem}'\nexample: '{problem}{solution}'\n"
        "max_new_tokens: 8\nanswer_rules: [stated]\n"
    )
    row = {"id": "e0", "problem": ROW, "answer": "7"}
    (tmp_path / "exam.jsonl").write_text(json.dumps(row))
    records = [{"id": "w0", "text": f"Ä: {ROW}"}, {"id": "w1", "text": "Something else."}]
    (tmp_path / "web.jsonl").write_text("\n".join(map(json.dumps, records)))
    search: dict[str, Any] = {"benchmarks": [str(tmp_path / "exam.yaml")], "data": str(tmp_path)}
    if allow is not None:
        (tmp_path / "allow.jsonl").write_text("\n".join(map(json.dumps, allow)))
        search["allow"] = str(tmp_path / "allow.jsonl")
    section = {"sources": {"web": {"path": str(tmp_path / "web.jsonl")}}, "decontaminate": search}
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "leaks", "curate": section}))
    return Road.load(path, runs=tmp_path / "runs")


def test_every_hit_is_explained(tmp_path: Path) -> None:
    folder = run(road_with(tmp_path, None)).folder
    (drop,) = map(json.loads, (folder / "drops" / "web.jsonl").open())
    assert [hit["rule"] for hit in drop["hits"]] == list(DEFAULT_RULES)
    for hit in drop["hits"]:
        assert drop["text"][slice(*hit["span"])] == hit["matched"] == ROW[:-1]
        assert ROW[slice(*hit["row_span"])] == hit["row_matched"] == ROW[:-1]
        assert hit["words"] == hit["row_words"] == 20
    assert {key: drop[key] for key in ("benchmark", "row", "rule")} == {
        "benchmark": "exam", "row": "e0", "rule": "ngram10"
    }  # fmt: skip


def test_what_is_allowed_stays_and_is_reported(tmp_path: Path) -> None:
    allow = [
        {"benchmark": "exam", "row": "e0", "source": "web", "record": "w0", "reason": "read by A."},
        {"source": "web", "record": "w1", "reason": "not needed"},
    ]
    stage = run(road_with(tmp_path, allow))
    stats = json.loads((stage.folder / "stats.json").read_text())
    assert (stats["kept"], stats["dropped"]) == (2, 0)
    assert [(entry["line"], entry["hits"]) for entry in stats["allowed"]] == [(1, 3), (2, 0)]
    hits = [json.loads(line) for line in (stage.folder / "allowed" / "hits.jsonl").open()]
    assert [hit["reason"] for hit in hits] == ["read by A."] * 3
    assert {row["hits allowed"] for row in stats["benchmarks"]} == {1}
    one_rule = [allow[0] | {"rule": "numbers"}]
    stage = run(road_with(tmp_path, one_rule))
    assert not stage.was_done, "the list counts by content"
    assert json.loads((stage.folder / "stats.json").read_text())["dropped"] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"benchmark": "exam", "row": "e0"}, "line 1: 'reason' must say"),
        ({"benchmark": "exam", "reason": "x"}, "line 1: name the hit by"),
        ({"benchmark": "exma", "row": "e0", "reason": "x"}, "'exma' is not looked for"),
        ({"benchmark": "exam", "row": "e9", "reason": "x"}, "has no row 'e9'"),
        ({"source": "wbe", "record": "w0", "reason": "x"}, "there is no source 'wbe'"),
        ({"source": "web", "record": "w0", "rule": "n", "reason": "x"}, "there is no rule 'n'"),
        ({"source": "web", "id": "w0", "reason": "x"}, "unknown keys id"),
        ({"source": "web", "record": 3, "reason": "x"}, "an object of texts"),
    ],
)
def test_an_entry_that_can_never_match_is_an_error(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(road_with(tmp_path, [entry]))


def test_all_means_every_benchmark_of_the_program() -> None:
    chosen = DecontaminateConfig(benchmarks="all").choices(has_synthesize=True)
    by_name = {one.name: one for one in chosen}
    assert set(NAMES) < set(by_name)
    assert by_name["heldout_templates"].rules == ["exact"]
    assert by_name["heldout_templates"].stage == "10_synthesize"
    assert by_name["gsm8k"].rules == list(DEFAULT_RULES)
    config = DecontaminateConfig.model_validate(
        {"benchmarks": ["all", {"name": "gsm8k", "rule": "exact"}], "rules": ["ngram13"]}
    )
    by_name = {one.name: one for one in config.choices(has_synthesize=False)}
    assert "heldout_templates" not in by_name
    assert (by_name["gsm8k"].rules, by_name["svamp"].rules) == (["exact"], ["ngram13"])


def road_with_all(tmp_path: Path, data: Path) -> Road:
    road_with(tmp_path, None)
    section = {
        "sources": {"web": {"path": str(tmp_path / "web.jsonl")}},
        "decontaminate": {"benchmarks": "all", "data": str(data)},
    }
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "leaks", "curate": section}))
    return Road.load(path, runs=tmp_path / "runs")


def test_all_says_which_benchmarks_have_no_rows_here(
    tmp_path: Path, shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    road = road_with_all(tmp_path, shared_data)
    with caplog.at_level("WARNING", logger="megatron_math"):
        stats = json.loads((run(road).folder / "stats.json").read_text())
    absent = stats["benchmarks without rows"]
    searched = {row["benchmark"] for row in stats["benchmarks"]}
    assert {"gsm8k", "math500", "svamp", "aqua"} <= searched
    assert {"math", "asdiv"} <= set(absent)
    assert not searched & set(absent)
    assert searched | set(absent) | {"heldout_templates"} == set(benchmark_names())
    assert all(name in caplog.text for name in absent)


def test_all_with_rows_of_no_benchmark_stops(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        run(road_with_all(tmp_path, tmp_path))


def test_a_benchmark_that_is_named_must_be_there(tmp_path: Path, shared_data: Path) -> None:
    road = road_with_all(tmp_path, shared_data)
    overrides = ["curate.decontaminate.benchmarks=[all, asdiv]"]
    with pytest.raises(UserError, match="asdiv: there is no file"):
        run(Road.load(road.yaml_path, overrides, road.runs))


def test_half_a_surrogate_pair_is_kept_as_it_was(tmp_path: Path) -> None:
    road = road_with(tmp_path, None)
    (tmp_path / "web.jsonl").write_text('{"id": "w", "text": "half \\ud83d of a pair"}\n')
    folder = run(road).folder
    assert "\\ud83d" in (folder / "web.jsonl").read_text()
