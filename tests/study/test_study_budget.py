"""Arms are counted from configuration and sidecars; unequal ones are refused before any runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from study_files import SEQUENCE, study_of, write_sidecars

from megatron_math.cli import main
from megatron_math.study.budget import ArmTokens, find_faults
from megatron_math.study.plan import plan_study, read_study
from megatron_math.study.verb import count_arms

INDEXES = {"general": 48_300, "whole": 14_700, "half": 7_500, "problems": 7_200}


def counted(folder: Path, **changes: Any) -> tuple[list[ArmTokens], list[str]]:
    plan = plan_study(read_study(study_of(folder, **changes)), folder / "runs")
    arms = count_arms(plan, [], [])
    return arms, find_faults(arms, plan.config)


def test_equal_arms_pass_and_the_table_has_every_source(tmp_path: Path) -> None:
    write_sidecars(tmp_path, **INDEXES)
    (plain, mixed), faults = counted(tmp_path)
    assert faults == []
    assert plain.tokens == mixed.tokens == 100_000
    used = {source.name: (source.used, source.available) for source in mixed.sources}
    assert used == {
        "general": (40_000, 48_300),
        "text": (18_000, 7_500),
        "problems": (42_000, 7_200),
    }
    assert [source.epochs for source in plain.sources] == pytest.approx(
        [40_000 / 48_300, 60_000 / 14_700]
    )


@pytest.mark.parametrize(("more", "is_refused"), [(SEQUENCE, False), (SEQUENCE + 1, True)])
def test_one_sequence_is_allowed_and_no_token_more(
    tmp_path: Path, more: int, is_refused: bool
) -> None:
    write_sidecars(tmp_path, **INDEXES)
    arms = {"plain": {"blend": {"tokens": 100_000 - more}}, "mixed": {}}
    _, faults = counted(tmp_path, arms=arms)
    assert bool(faults) == is_refused
    write_sidecars(tmp_path, problems=7_200 + more)
    _, faults = counted(tmp_path, arms={"mixed": {}, "plain": {}})
    assert bool(faults) == is_refused


def test_quotas_and_stages_count(tmp_path: Path) -> None:
    write_sidecars(tmp_path, **INDEXES)
    index = f"{tmp_path}/index"
    stages = [
        {
            "name": "one",
            "mix": {"general": {"epochs": 2, "path": f"{index}/general_text_document"}},
        },
        {"name": "two", "mix": {"half": {"tokens": 3400, "path": f"{index}/half_text_document"}}},
    ]
    blend = {"sequence_length": SEQUENCE, "validation": 0, "stages": stages}
    road = {"base": {"preset": "tiny"}, "blend": blend, "train": {}}
    changes: dict[str, Any] = {"road": road, "arms": {"mixed": {}, "plain": {}}}
    (mixed, _), faults = counted(tmp_path, budget={"tokens": 100_000}, **changes)
    assert (mixed.tokens, mixed.about, faults) == (100_000, 0.0, [])
    blend["validation"] = 0.1  # documents are held out whole, so that it is about so many
    (mixed, _), faults = counted(tmp_path, budget={"tokens": 90_340}, **changes)
    assert mixed.tokens == 90_340
    assert mixed.about > 0


def test_a_source_that_ends_gives_its_share_to_its_siblings(tmp_path: Path) -> None:
    write_sidecars(tmp_path, **INDEXES)
    of = {"problems": {"max_epochs": 1}, "text": {}}
    arms = {"mixed": {"blend": {"validation": 0, "mix": {"mathematics": {"of": of}}}}, "plain": {}}
    (mixed, _), _ = counted(tmp_path, arms=arms)
    used = {source.name: source.used for source in mixed.sources}
    assert used == {"general": 40_000, "problems": 7_200, "text": 52_800}


def test_what_is_not_indexed_yet_is_not_known_and_not_refused(tmp_path: Path) -> None:
    (plain, _), faults = counted(tmp_path)
    assert faults == []
    assert (plain.tokens, plain.sources[0].available) == (100_000, None)


def test_equal_items(tmp_path: Path) -> None:
    write_sidecars(tmp_path, **INDEXES)
    budget = {"tokens": 100_000, "available": {"problems": {"documents": 720}}}
    arms = {"mixed": {}, "plain": {}}
    assert counted(tmp_path, budget=budget, arms=arms)[1] == []
    budget = {"tokens": 100_000, "available": {"problems": {"documents": 700}}}
    assert "720 documents in place of 700" in counted(tmp_path, budget=budget, arms=arms)[1][0]
    budget = {"tokens": 100_000, "available": {"problems": {"documents": 700, "within": 0.05}}}
    assert counted(tmp_path, budget=budget, arms=arms)[1] == []
    budget = {"tokens": 100_000, "available": {"nothing": {"documents": 1}}}
    assert "no source or group 'nothing'" in counted(tmp_path, budget=budget, arms=arms)[1][0]


def test_the_verb_refuses_and_says_what_each_arm_comes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sidecars(tmp_path, **INDEXES)
    path = study_of(tmp_path)
    command = ["study", str(path), "--runs", str(tmp_path / "runs")]
    for more in (["--dry-run"], []):
        assert main([*command, "arms.mixed.blend.tokens=90k", *more]) == 2
        out, err = capsys.readouterr()
        assert "arm 'mixed' comes to 90,000 tokens" in err
        assert "100,000" in out
        assert "90,000" in out
    assert not list((tmp_path / "runs").glob("small/*/50_train"))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sidecars(tmp_path, **INDEXES)
    command = ["study", str(study_of(tmp_path)), "--runs", str(tmp_path / "runs"), "--dry-run"]
    assert main(command) == 0
    assert "small/plain-s1" in capsys.readouterr().out
    assert main([*command, "--json", "--only", "mixed", "--seeds", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["roads"] == ["small/mixed-s2"]
    assert facts["arms"][0]["tokens"] == 100_000
    assert not (tmp_path / "runs").exists()
