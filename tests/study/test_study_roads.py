"""Real roads: stages made once, plans held against the budget, a small study from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.cli import main
from megatron_math.study.one_road import check_plan, walk
from megatron_math.study.plan import StudyPlan, plan_study, read_study

STUDY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [1],
    "budget": {"tokens": 1024},
    "metrics": ["heldout_templates"],
    "compare": [{"arm": "whole", "baseline": "cut"}],
    "road": {
        "base": {"preset": "tiny"},
        "model": {
            "vocab_size": 512, "num_layers": 1, "hidden_size": 32, "num_attention_heads": 2,
            "num_query_groups": 2, "ffn_hidden_size": 64, "head_dim": 16,
        },
        "synthesize": {"problems": 120, "heldout": 4},
        "index": {
            "tokenizer": {"train": {"vocab_size": 400}},
            "sources": {"problems": {"stage": "10_synthesize", "file": "problems.jsonl"}},
            "workers": 1,
        },
        "blend": {"sequence_length": 64, "tokens": 1024, "mix": {"problems": {"share": 1}}},
        "precision": {"dtype": "fp32"},
        "train": {
            "global_batch_size": 8, "micro_batch_size": 8, "lr": 1e-3, "tensorboard": False,
            "validation_samples": 2,
        },
        "checkpoint": {"async": False},
        "evaluate": {
            "who": ["after"],
            "benchmarks": [
                {"name": "heldout_templates", "stage": "10_synthesize", "max_new_tokens": 4}
            ],
        },
    },
    "arms": {"cut": {}, "whole": {"blend": {"mix": {"problems": {"pack": "whole"}}}}},
}  # fmt: skip


def write_study(folder: Path) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return path


def plan_of(folder: Path, *overrides: str) -> StudyPlan:
    return plan_study(read_study(write_study(folder), overrides), folder / "runs")


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def to_plan(plan: StudyPlan) -> None:
    """Both arms up to their plans; weights are of no interest here."""
    for arm in plan.arms:
        walk(arm.road, (1024, 64), "synthesize", "blend")


@pytest.fixture
def blended(tmp_path: Path) -> StudyPlan:
    plan = plan_of(tmp_path)
    to_plan(plan)
    return plan


def test_equal_stages_are_made_once_and_linked(blended: StudyPlan) -> None:
    cut, whole = (arm.road for arm in blended.arms)
    for stage in ("10_synthesize", "30_index"):
        assert not cut.folder(stage).is_symlink()
        assert whole.folder(stage).is_symlink()
        assert whole.folder(stage).resolve() == cut.folder(stage).resolve()
    assert not whole.folder("40_blend").is_symlink()
    before = stamps(blended.folder)
    to_plan(blended)
    assert stamps(blended.folder) == before


def test_a_linked_stage_that_changes_becomes_the_roads_own(
    blended: StudyPlan, tmp_path: Path
) -> None:
    before = stamps(blended.folder / "cut-s1")
    changed = plan_of(tmp_path, "arms.whole.synthesize.problems=130")
    whole = changed.arms[1].road
    walk(whole, None, "synthesize", "index")
    assert not whole.folder("10_synthesize").is_symlink()
    assert not whole.folder("30_index").is_symlink()
    rows = (whole.folder("10_synthesize") / "problems.jsonl").read_text().splitlines()
    assert len(rows) == 130
    assert stamps(blended.folder / "cut-s1") == before


def test_a_link_to_nothing_is_made_anew(blended: StudyPlan) -> None:
    cut, whole = (arm.road for arm in blended.arms)
    (cut.folder("10_synthesize") / "DONE").unlink()
    (cut.folder("10_synthesize") / "stats.json").unlink()
    walk(whole, None, "synthesize", "synthesize")
    assert not whole.folder("10_synthesize").is_symlink()
    assert (whole.folder("10_synthesize") / "DONE").is_file()


def test_a_plan_beside_the_budget_is_refused_before_training(blended: StudyPlan) -> None:
    road = blended.arms[0].road
    found = json.loads((road.folder("40_blend") / "stats.json").read_text())["tokens"]
    check_plan(road, found + 64, 64)
    for wrong in (found + 65, found - 65):
        with pytest.raises(UserError, match="give its blend as many tokens as the other arms"):
            walk(road, (wrong, 64), "synthesize")
    assert not road.folder("50_train").exists()


def test_a_study_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", str(write_study(tmp_path)), "--runs", str(tmp_path / "runs"), "--jobs", "2"]
    assert main(command) == 0
    folder = tmp_path / "runs/tiny"
    facts = json.loads((folder / "results.json").read_text())
    assert facts["missing"] == {}
    assert "whole - cut" in (folder / "report/index.html").read_text()
    found = facts["arms"]["cut"]["metrics"]["heldout_templates"]
    assert (found["seeds"], found["items"]) == (1, 12)
    assert facts["compare"][0]["verdict"] == "not shown"  # of one seed
    assert "whole - cut" in capsys.readouterr().out
    assert (folder / "whole-s1/10_synthesize").is_symlink() != (
        folder / "cut-s1/10_synthesize"
    ).is_symlink()

    before = stamps(folder)
    (folder / "whole-s1/80_report/DONE").unlink()
    assert main(command) == 0
    after = stamps(folder)
    changed = {name for name in after if before.get(name) != after[name]}
    kinds = {name.split("/")[0] for name in changed}
    assert kinds <= {"whole-s1", "results.json", "results.csv", "report"}
    assert not any("50_train" in name or "70_evaluate" in name for name in changed)


def test_a_failing_arm_is_named_and_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arms = "arms={bad: {base: {preset: nothing}}, worse: {after: bad}}"
    path, runs = write_study(tmp_path), tmp_path / "runs"
    with caplog.at_level("ERROR", logger="megatron_math"):
        assert main(["study", str(path), arms, "compare=[]", "--runs", str(runs)]) == 1
    said = caplog.text
    assert "bad-s1: failed (exit code 2: megatron-math:" in said
    assert "nothing" in said
    assert "worse-s1: left out (it needs bad-s1)" in said
