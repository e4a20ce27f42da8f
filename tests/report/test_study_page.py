"""The page of a study says what results.json says, and nothing that is in no data beside it."""

from pathlib import Path
from typing import Any

import pytest
from read_page import Page, check_alone, check_drawings, leaves
from study_folder import ITEMS, RIGHT, STARTS, write_study

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.report.examples import CLASSES
from megatron_math.report.study import write_study_page
from megatron_math.study.plan import StudyPlan


def write_page(plan: StudyPlan) -> Path:
    arms = {(arm.arm, arm.seed): arm.road.root for arm in plan.arms}
    return write_study_page(plan.folder, arms, [plan.folder / "base"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyPlan, Path, Any]:
    plan = write_study(tmp_path_factory.mktemp("study"))
    path = write_page(plan)
    return plan, path, read_json(path.with_name("data.json"))


def test_every_number_of_the_data_is_on_the_page(made: tuple[StudyPlan, Path, Any]) -> None:
    plan, path, data = made
    shown = {value for value, _ in Page.read(path).numbers}
    assert data["results"] == read_json(plan.folder / "results.json")
    assert [number for number in leaves(data) if number not in shown] == []
    results = data["results"]
    counted = {len(results[key]) for key in ("arms", "seeds", "metrics", "compare")}
    assert shown - set(leaves(data)) <= counted, "neither in data.json nor a count of its parts"
    assert len(shown) > 300


def test_it_stands_alone_and_tells_its_drawings(made: tuple[StudyPlan, Path, Any]) -> None:
    check_alone(made[1])
    check_drawings(made[1])


def test_it_says_first_what_was_seen(made: tuple[StudyPlan, Path, Any]) -> None:
    text = Page.read(made[1]).text
    assert "Problems beat prose at equal tokens: shown." in text
    assert "1 of 20 roads have no result yet" in text
    assert "shuffled-s5 50_train, 70_evaluate is not finished" in text


def test_contamination_stands_with_the_benchmark(made: tuple[StudyPlan, Path, Any]) -> None:
    text = Page.read(made[1]).text
    assert "In the texts of base, 2 of 84 problems were found by the rule ngram13" in text


def test_answers_of_all_arms_to_the_same_problems(made: tuple[StudyPlan, Path, Any]) -> None:
    _, _, data = made
    (found,) = data["examples"]
    assert found["models"] == list(RIGHT)
    assert found["problems"] == ITEMS
    assert found["prefix"] == STARTS
    assert all(set(row["answers"]) == set(RIGHT) for row in found["rows"])
    assert all(row["question"].startswith("Question: Ida") for row in found["rows"])
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert kinds["disputed"]["shown"] == kinds["disputed"]["problems"] > 0
    assert sum(kinds[k]["problems"] for k in kinds if k in CLASSES) == ITEMS


def test_curves_are_means_over_seeds(made: tuple[StudyPlan, Path, Any]) -> None:
    plan, _, data = made
    curve = next(one for one in data["curves"] if one["source"] == "general")
    arm = next(one for one in curve["arms"] if one["arm"] == "texts")
    roots = [a.road.root for a in plan.arms if a.arm == "texts"]
    last = [(r / "50_train/validation.jsonl").read_text().splitlines()[-1] for r in roots]
    losses = [float(line.split('"general": ')[1].split(",")[0]) for line in last]
    assert arm["points"][-1]["loss"] == pytest.approx(sum(losses) / len(losses))
    assert arm["seeds"] == 5


def test_a_study_without_any_result_has_a_page(tmp_path: Path) -> None:
    plan = write_study(tmp_path, seeds=1)
    results = read_json(plan.folder / "results.json")
    for arm in results["arms"].values():
        arm |= {"metrics": {}, "trained_tokens": {}}
    write_json(plan.folder / "results.json", results | {"compare": [], "gains": []})
    path = write_study_page(plan.folder, {("texts", 1): tmp_path / "nothing"})
    assert "missing" in Page.read(path).text
    (plan.folder / "results.json").unlink()
    with pytest.raises(UserError, match="run the study first"):
        write_page(plan)
