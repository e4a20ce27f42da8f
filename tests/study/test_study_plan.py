"""From one YAML to roads: what is merged, in which order they stand, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from study_files import study_of

from megatron_math.base.errors import UserError
from megatron_math.study.plan import laid_over, plan_study, read_study


def arms_with(**more: Any) -> dict[str, Any]:
    return {"arms": {"plain": {}, "mixed": {}, **more}}


def test_each_arm_and_seed_is_a_road(tmp_path: Path) -> None:
    plan = plan_study(read_study(study_of(tmp_path)), tmp_path / "runs")
    assert [arm.key for arm in plan.arms] == ["plain-s1", "mixed-s1", "plain-s2", "mixed-s2"]
    road = plan.arms[2].road
    assert (road.name, road.seed) == ("small/plain-s2", 2)
    assert road.yaml_path == tmp_path / "runs/small/plain-s2/road.yaml"
    assert list(road.raw["blend"]["mix"]["mathematics"]["of"]) == ["text"]
    assert road.raw["blend"]["mix"]["general"]["share"] == 4


def test_mappings_are_merged_and_null_takes_away() -> None:
    below = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert laid_over(below, {"a": {"y": None, "w": 4}, "b": [5]}) == {
        "a": {"x": 1, "w": 4},
        "b": [5],
    }
    assert laid_over({}, {"new": {"kept": 1, "gone": None}}) == {"new": {"kept": 1}}
    assert below == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


def test_an_arm_stands_behind_the_one_that_it_begins_with(tmp_path: Path) -> None:
    arms = {"tuned": {"after": "mixed"}, "plain": {}, "mixed": {}}
    plan = plan_study(read_study(study_of(tmp_path, arms=arms)), tmp_path / "runs")
    assert [arm.key for arm in plan.arms[:3]] == ["plain-s1", "mixed-s1", "tuned-s1"]
    tuned = plan.arms[2]
    assert tuned.after == "mixed-s1"
    assert tuned.road.raw["base"] == {"run": "../mixed-s1"}
    assert [arm.key for arm in plan.chosen(["tuned"], [2])] == ["mixed-s2", "tuned-s2"]


def test_words_stand_for_folders_and_seeds(tmp_path: Path) -> None:
    shared = {"texts": {"index": {"sources": {"x": {"path": "${STUDY}/x${SEED}.jsonl"}}}}}
    arms = {"plain": {"evaluate": {"data": "${RUNS}/d${SEED}"}}, "mixed": {}}
    config = read_study(study_of(tmp_path, shared=shared, arms=arms))
    plan = plan_study(config, tmp_path / "runs")
    assert plan.shared[0].name == "small/texts"
    path = plan.shared[0].raw["index"]["sources"]["x"]["path"]
    assert path == f"{tmp_path}/runs/small/x1234.jsonl"
    assert plan.arms[0].road.raw["evaluate"]["data"] == f"{tmp_path}/runs/d1"


def test_an_arm_of_another_study_is_no_road_of_this_one(tmp_path: Path) -> None:
    arms = {"theirs": {"made_by": "other/base1"}, "plain": {}, "mixed": {"after": "theirs"}}
    plan = plan_study(read_study(study_of(tmp_path, arms=arms)), tmp_path / "runs")
    theirs = next(arm for arm in plan.arms if arm.arm == "theirs")
    assert theirs.is_made_elsewhere
    assert theirs.road.root == tmp_path / "runs/other/base1-s1"
    mixed = next(arm for arm in plan.arms if arm.arm == "mixed")
    assert mixed.after is None
    assert mixed.road.raw["base"] == {"run": "../../other/base1-s1"}
    assert not (tmp_path / "runs/other").exists()


def test_overrides_reach_arms(tmp_path: Path) -> None:
    config = read_study(study_of(tmp_path), ["arms.mixed.train.lr=0.5", "seeds=[7]"])
    plan = plan_study(config, tmp_path / "runs")
    assert [arm.road.raw["train"]["lr"] for arm in plan.arms] == [1e-3, 0.5]
    assert plan.arms[0].key == "plain-s7"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "unknown key 'arm'"),
        ({"seeds": []}, "at least 1"),
        ({"seeds": [1, 1]}, "every seed counts once"),
        ({"budget": None}, "give `budget`"),
        ({"arms": {"plain": {"trian": {}}}}, "arms.plain: unknown key 'trian'"),
        ({"arms": {"plain": {"name": "x"}}}, "unknown key 'name'"),
        (arms_with(tuned={"after": "nobody"}), "there is no other arm 'nobody'"),
        (arms_with(tuned={"after": "plain", "base": {}}), "leave `base` out"),
        (arms_with(tuned={"budget": "sft"}), "the study has one budget"),
        (arms_with(theirs={"made_by": "x"}), "made_by is STUDY/ARM"),
        (arms_with(theirs={"made_by": "x/y", "train": {}}), "nothing of its own"),
        ({"shared": {"plain-s1": {}}}, "names that end with -s"),
        ({"compare": [{"arm": "plain", "baseline": "nobody"}]}, "there is no arm 'nobody'"),
        ({"compare": [{"arm": "plain"}]}, "give `arm` and `baseline`"),
        ({"compare": [{"weights": {"plain": 1, "mixed": 1}}]}, "add up to 0"),
        ({"budget": {"tokens": "many"}}, "tokens are a whole number"),
        ({"budget": {"tokens": 1, "available": {"x": {}}}}, "either `tokens` or `documents`"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_study(study_of(tmp_path, **changes))


def test_circles_and_unknown_choices_are_refused(tmp_path: Path) -> None:
    circle = {"plain": {"after": "mixed"}, "mixed": {"after": "plain"}}
    with pytest.raises(UserError, match="after another of them"):
        plan_study(read_study(study_of(tmp_path, arms=circle)), tmp_path / "runs")
    plan = plan_study(read_study(study_of(tmp_path)), tmp_path / "runs")
    with pytest.raises(UserError, match="--only nobody"):
        plan.chosen(["nobody"], [])
    with pytest.raises(UserError, match="--seeds 9"):
        plan.chosen([], [9])


def test_a_road_is_no_study(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text("name: road\ntrain: {}\n")
    with pytest.raises(UserError, match="it is no study"):
        read_study(path)
    with pytest.raises(UserError, match="does not exist"):
        read_study(tmp_path / "none.yaml")
