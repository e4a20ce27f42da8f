"""Labels: difficulty by steps and by success, topic and stage by words and by a model; slicing."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_web import gsm8k, math500, read_rows, stacks, wikitext, write_rows

from megatron_math.answers.solution_steps import count_steps
from megatron_math.base.errors import UserError
from megatron_math.base.records import Record
from megatron_math.base.road import Road
from megatron_math.curate.labels.by_model import ModelRule, named
from megatron_math.curate.labels.config import DifficultyConfig, LabelsConfig
from megatron_math.curate.labels.difficulty import DifficultyRule
from megatron_math.curate.labels.keywords import KeywordRule, read_table
from megatron_math.curate.labels.run import Labels
from megatron_math.curate.run import run
from megatron_math.engine.scripted import ScriptedEngine


def problem(text: str, solution: str = "", **meta: Any) -> Record:
    return Record("x", "s", problem=text, solution=solution, meta=meta)


def steps_of(number: int) -> str:
    return "\n".join(f"{n} + 1 = {n + 1}" for n in range(number))


@pytest.mark.parametrize(
    ("steps", "label"), [(0, "easy"), (2, "easy"), (3, "medium"), (5, "medium"), (6, "hard")]
)
def test_difficulty_by_counted_steps(steps: int, label: str) -> None:
    rule = DifficultyRule(DifficultyConfig())
    counted = problem("How much?", steps_of(steps) + "\nThe answer is 7.")
    told = problem("How much?", "It is 7.", steps=steps)
    plain = Record("t", "s", text="1 + 1 = 2")
    assert rule.judge([counted, told, plain]) == [
        (label, {"steps": steps}), (label, {"steps": steps}), (None, {})
    ]  # fmt: skip


def test_difficulty_by_success(tmp_path: Path) -> None:
    rule = DifficultyRule(DifficultyConfig(by="success"))
    records = [problem("?", right_of=list(pair)) for pair in ((3, 4), (1, 4), (0, 4), (0, 0))]
    assert [label for label, _ in rule.judge(records)] == ["easy", "medium", "hard", None]
    predictions = [
        write_rows(tmp_path / f"{n}.jsonl", [
            {"id": "a", "correct": True}, {"id": "b", "correct": n == 0}, {"id": "c",
             "correct": False}]) for n in range(2)
    ]  # fmt: skip
    rule = DifficultyRule(DifficultyConfig(by="success", predictions=predictions))
    records = [Record(name, "s", problem="?", solution="") for name in "abcd"]
    assert rule.judge(records) == [
        ("easy", {"success": 1.0}), ("medium", {"success": 0.5}), ("hard", {"success": 0.0}),
        (None, {}),
    ]  # fmt: skip
    write_rows(tmp_path / "0.jsonl", [{"id": "a"}])
    with pytest.raises(UserError, match=r"0\.jsonl, line 1: a prediction"):
        DifficultyRule(DifficultyConfig(by="success", predictions=predictions))


def test_more_steps_are_harder_for_real_models(shared_data: Path) -> None:
    """GSM8K's four models fail more often where a solution has more steps: the two rules agree."""
    rate: dict[str, list[bool]] = {"easy": [], "medium": [], "hard": []}
    rule = DifficultyRule(DifficultyConfig())
    with open(shared_data / "gsm8k" / "model_solutions.jsonl", encoding="utf-8") as file:
        for row in map(json.loads, file):
            label, _ = rule.judge([problem(row["question"], row["ground_truth"])])[0]
            assert label is not None
            rate[label] += [one["is_correct"] for one in row.values() if isinstance(one, dict)]
    mean = {label: sum(right) / len(right) for label, right in rate.items()}
    print(mean, {label: len(right) for label, right in rate.items()})
    assert mean["easy"] > mean["medium"] + 0.1 > mean["hard"] + 0.2
    assert min(map(len, rate.values())) > 100


@pytest.fixture(scope="module")
def math_rows(shared_data: Path) -> list[dict[str, Any]]:
    return math500(shared_data)


SUBJECTS = {
    "Number Theory": "number theory",
    "Counting & Probability": "counting and probability",
    "Geometry": "geometry",
    "Algebra": "algebra",
    "Intermediate Algebra": "algebra",
}


def test_topics_agree_with_those_that_people_gave(math_rows: list[dict[str, Any]]) -> None:
    rows = [row for row in math_rows if row["subject"] in SUBJECTS]
    rule = KeywordRule(read_table("topic", None))
    labels = rule.judge([problem(row["problem"], row["solution"]) for row in rows])
    right = [SUBJECTS[row["subject"]] == label for row, label in zip(rows, labels, strict=True)]
    most = Counter(SUBJECTS[row["subject"]] for row in rows).most_common(1)[0][1]
    wrong = KeywordRule(moved_on(read_table("topic", None)))
    mistaken = wrong.judge([problem(row["problem"], row["solution"]) for row in rows])
    by_chance = [SUBJECTS[row["subject"]] == one for row, one in zip(rows, mistaken, strict=True)]
    print(sum(right) / len(rows), most / len(rows), sum(by_chance) / len(rows))
    assert sum(right) >= 0.75 * len(rows)
    assert sum(by_chance) < 0.2 * len(rows), "with the keywords of other labels"


def moved_on(table: Any) -> Any:
    names, words = list(table.labels), list(table.labels.values())
    moved = dict(zip(names, words[1:] + words[:1], strict=True))
    return table.model_copy(update={"labels": moved})


def test_stages_of_real_texts(math_rows: list[dict[str, Any]], shared_data: Path) -> None:
    rule = KeywordRule(read_table("stage", None))
    gaokao = (shared_data / "eval" / "gaokao_mathcloze.jsonl").read_text(encoding="utf-8")
    texts = {
        "grade": [problem(text) for text in gsm8k(shared_data, 0, 500)],
        "high": [problem(json.loads(line)["question"]) for line in gaokao.splitlines()],
        "college": [Record("x", "s", text=text) for text in stacks(shared_data)],
        "no stage": [Record("x", "s", text=text) for text in wikitext(shared_data, "test")[:500]],
    }
    for stage, records in texts.items():
        counts = Counter(label or "no stage" for label in rule.judge(records))
        print(stage, counts)
        assert counts[stage] >= {"high": 0.5}.get(stage, 0.8) * len(records)


def test_keywords_are_whole_words_in_any_form() -> None:
    rule = KeywordRule(read_table("topic", None))
    same = ["Find the GEOMETRIC\n sequences.", "等比 数列", "A geometric sequence"]
    assert rule.judge([problem(text) for text in same]) == ["algebra"] * 3
    assert rule.judge([problem("We primed the anglers.")]) == ["arithmetic"], "no keyword at all"
    assert rule.judge([Record("x", "s", text="We primed the anglers.")]) == [None]
    assert rule.judge([problem(r"$\int f$"), problem("int f")]) == ["calculus", "arithmetic"]


def test_a_model_chooses_a_label(math_rows: list[dict[str, Any]]) -> None:
    asked = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "  **Number Theory**." if "prime" in prompt else "I do not know"

    rule = ModelRule("topic", read_table("topic", None), ScriptedEngine(answer))
    records = [problem("Is 7 prime?", "Yes."), problem("What {{ is }} 1 + 1?", "2")]
    assert rule.judge(records) == ["number theory", None]
    assert "What {{ is }} 1 + 1?" in asked[1]
    assert "linear algebra\n" in asked[0]
    assert named("It is linear algebra, not algebra", ["algebra", "linear algebra"]) == (
        "linear algebra"
    )


def make_road(folder: Path, labels: dict[str, Any]) -> Road:
    rows = [
        {"id": f"p{n}", "problem": f"Is {n} a prime number?", "solution": steps_of(n)}
        for n in range(8)
    ] + [{"id": "t", "text": "A page about bread."}]
    source = write_rows(folder / "a.jsonl", rows)
    section = {"sources": {"a": {"path": str(source)}}, "labels": labels}
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "labels", "curate": section}))
    return Road.load(path, runs=folder / "runs")


def test_a_road_labels_counts_and_slices(tmp_path: Path) -> None:
    labels = {"difficulty": {}, "topic": {}, "stage": {}}
    folder = run(make_road(tmp_path, labels)).folder
    rows = {row["id"]: row for row in read_rows(folder / "a.jsonl")}
    assert rows["p4"]["meta"] == {
        "steps": 4,
        "labels": {"difficulty": "medium", "topic": "number theory", "stage": "middle"},
    }
    assert rows["t"]["meta"] == {"labels": {}}
    counts = json.loads((folder / "stats.json").read_text())["sources"]["a"]["labels"]
    assert counts["difficulty"] == {"easy": 3, "hard": 2, "medium": 3, "none": 1}
    assert counts["topic"] == {"none": 1, "number theory": 8}
    labels |= {"keep": {"difficulty": ["medium", "hard"]}}
    folder = run(make_road(tmp_path, labels)).folder
    assert [row["id"] for row in read_rows(folder / "a.jsonl")] == [f"p{n}" for n in range(3, 8)]
    drops = {row["id"]: row for row in read_rows(folder / "drops" / "a.jsonl")}
    assert set(drops) == {"p0", "p1", "p2", "t"}
    assert (drops["p1"]["reason"], drops["p1"]["label"]) == ("label difficulty", "easy")
    assert drops["t"]["label"] is None
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["sources"]["a"]["labels"]["difficulty"] == counts["difficulty"], "before slicing"


def test_an_own_table_and_what_cannot_be(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("labels: {bread: 'bread, loaf', primes: prime}\n")
    config = LabelsConfig.model_validate({"topic": {"table": str(own)}})
    record = Record("x", "s", text="Two loaves of bread.")
    assert Labels(config, {}).judge([record]) == [None]
    assert record.meta["labels"] == {"topic": "bread"}
    for section, said in (
        ({}, "at least one"),
        ({"difficulty": {}, "keep": {"topic": ["algebra"]}}, "not asked for"),
        ({"difficulty": {}, "keep": {"difficulty": ["hrad"]}}, "easy, medium, hard"),
        ({"difficulty": {"by": "success", "hard_from": 6}}, "no effect"),
        ({"difficulty": {"medium_from": 9}}, "beyond"),
    ):
        with pytest.raises(UserError, match=said):
            run(make_road(tmp_path, section))
    own.write_text("labels: {bread: '+, -', primes: prime}\n")
    with pytest.raises(UserError, match="no letters"):
        Labels(config, {})


def test_hand_counted_steps() -> None:
    """Solutions of known numbers of steps, statements of the answer aside."""
    counted = {
        "Half of 48 is 48 / 2 = 24.\nTogether 48 + 24 = 72.\n#### 72": 2,
        "We know that $x = 3$. So $2x = 6$. Therefore, the answer is \\boxed{6}.": 2,
        "## Solution\n\nLet us begin.\n\n$$a = b$$\n\nThe final answer is 7.": 1,
        "因为 $a=b$，所以 $2a=2b$。答案是 4。": 1,
        "No reasoning here.": 0,
    }
    assert {text: count_steps(text) for text in counted} == counted
