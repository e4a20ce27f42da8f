"""The shipped studies: budgets of the published table, miniatures whose texts are what they say."""

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_math.base.records import Record, read_records, write_records
from megatron_math.blend.config import BlendConfig
from megatron_math.convert.config import BaseConfig
from megatron_math.curate.config import CurateConfig
from megatron_math.evaluate.config import EvaluateConfig
from megatron_math.index.config import IndexConfig
from megatron_math.launch.config import LaunchConfig
from megatron_math.study.budget import ArmTokens, find_faults
from megatron_math.study.plan import StudyPlan, plan_study, read_study
from megatron_math.study.verb import count_arms
from megatron_math.synthesize.config import read_section
from megatron_math.train.config import (
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEPS = 25_000 * 1024 * 4096
PUBLISHED = {
    "general": 48_300_000_000,
    "mathtext": 14_700_000_000,
    "mathtext_half": 7_500_000_000,
    "problems": 7_200_000_000,
    "problems_half": 3_600_000_000,
    "problems_tenth": 720_000_000,
    "problems_hundredth": 72_000_000,
    "problems_easy": 1_656_000_000,
    "problems_medium": 2_592_000_000,
    "problems_hard": 2_952_000_000,
}
SECTIONS = {
    "base": BaseConfig, "curate": CurateConfig, "index": IndexConfig, "blend": BlendConfig,
    "parallel": ParallelConfig, "precision": PrecisionConfig, "train": TrainConfig,
    "checkpoint": CheckpointConfig, "evaluate": EvaluateConfig, "launch": LaunchConfig,
}  # fmt: skip
STUDIES = ("60_study_rq1", "61_study_rq2", "62_study_rq3", "63_study_jiuzhang3")
SYNTHESES = ("diversification", "expansion", "retrospective", "tutorship")


def sidecars(folder: Path, **changed: int) -> None:
    """What indexes of the published sizes would have beside them; no index."""
    for name, tokens in (PUBLISHED | changed).items():
        facts = {"tokens": tokens, "documents": 1}
        (folder / f"{name}_text_document.json").write_text(json.dumps(facts))
    for method in SYNTHESES:
        for kind, facts in (
            ("items", {"tokens": 5_000_000_000, "documents": 11_942_328}),
            ("tokens", {"tokens": 4_780_000_000, "documents": 1}),
        ):
            path = folder / f"{method}_{kind}_text_document.json"
            path.write_text(json.dumps(facts))


def counted(study: str, folder: Path) -> tuple[StudyPlan, dict[str, ArmTokens], list[str]]:
    plan = plan_study(read_study(EXAMPLES / study / "study.yaml"), folder / "runs")
    arms = count_arms(plan, [], [])
    return plan, {arm.arm: arm for arm in arms}, find_faults(arms, plan.config)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA", str(tmp_path))
    sidecars(tmp_path)
    return tmp_path


def of_group(arm: ArmTokens, name: str, what: str) -> int:
    return sum(getattr(s, what) for s in arm.sources if name == s.name or name in s.groups)


def test_rq1_has_the_published_budgets(data: Path) -> None:
    _, arms, faults = counted("60_study_rq1", data)
    assert faults == []
    parts = {"base1": (10, 0), "mix_7_3": (7, 3), "mix_5_5": (5, 5), "mix_3_7": (3, 7),
             "mix_2_8": (2, 8), "mix_1_9": (1, 9)}  # fmt: skip
    assert set(arms) == set(parts)
    for name, (text, problems) in parts.items():
        arm = arms[name]
        assert arm.tokens == STEPS
        assert abs(of_group(arm, "general", "available") - 48_300_000_000) <= 4096
        assert abs(of_group(arm, "mathematics", "available") - 14_700_000_000) <= 4096
        assert abs(of_group(arm, "general", "used") - 0.4 * STEPS) <= 1
        assert abs(of_group(arm, "mathtext", "used") - 0.06 * text * STEPS) <= 1
        assert abs(of_group(arm, "problems", "used") - 0.06 * problems * STEPS) <= 1
    epochs = {s.name: round(s.epochs or 0, 1) for s in arms["mix_3_7"].sources}
    assert epochs == {"general": 0.9, "mathtext": 2.5, "problems": 6.1}


@pytest.mark.parametrize("name", ["general", "mathtext", "mathtext_half", "problems"])
def test_control_other_corpora_are_refused(data: Path, name: str) -> None:
    sidecars(data, **{name: PUBLISHED[name] + 4097})
    assert counted("60_study_rq1", data)[2]
    sidecars(data, **{name: PUBLISHED[name] + 4096})
    assert counted("60_study_rq1", data)[2] == []


def test_rq2_has_equal_items_and_equal_tokens(data: Path) -> None:
    _, arms, faults = counted("61_study_rq2", data)
    assert faults == []
    assert len(arms) == 9
    assert {arm.tokens for arm in arms.values()} == {STEPS}
    for method in SYNTHESES:
        assert of_group(arms[f"{method}_items"], "synthetic", "documents") == 11_942_328
        assert of_group(arms[f"{method}_tokens"], "synthetic", "available") == 4_780_000_000


def test_rq3_has_the_published_budgets(data: Path) -> None:
    plan, arms, faults = counted("62_study_rq3", data)
    assert faults == []
    for name, arm in arms.items():
        if plan.config.arms[name].get("after") is None:
            assert arm.tokens == STEPS
            continue
        assert arm.tokens == 3 * of_group(arm, "problems", "available")
        assert [s.name for s in arm.sources] == ["problems"]
    assert arms["base1_sft"].tokens == 21_600_000_000
    assert 100 * (arms["base1_1sft"].tokens or 0) == arms["base1_sft"].tokens
    slices = [arms[f"{level}_sft"].tokens or 0 for level in ("easy", "medium", "hard")]
    assert sum(slices) == 21_600_000_000
    assert [round(100 * tokens / sum(slices)) for tokens in slices] == [23, 36, 41]


@pytest.mark.parametrize("folder", STUDIES)
def test_miniatures_have_equal_arms(folder: str, tmp_path: Path) -> None:
    plan = plan_study(read_study(EXAMPLES / folder / "miniature.yaml"), tmp_path)
    arms = count_arms(plan, [], [])
    assert find_faults(arms, plan.config) == []
    assert None not in [arm.tokens for arm in arms]
    assert len(plan.config.seeds) >= 5


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniatures' texts, fewer of them."""
    out = tmp_path_factory.mktemp("study_texts")
    prose = [Record(id=f"m{i}", source="mathtext", text=f"Text {i}.") for i in range(200)]
    write_records(out / "mathtext.jsonl", prose)
    run_script("60_study_rq1/texts.py", str(out), "--problems", "300", "--heldout", "30")
    run_script("61_study_rq2/syntheses.py", str(out))
    run_script("63_study_jiuzhang3/texts.py", str(out))
    return out


def run_script(name: str, *arguments: str) -> None:
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before


def records(texts: Path, name: str) -> list[Record]:
    return list(read_records(texts / f"{name}.jsonl"))


def test_difficulties_are_numbers_of_steps(texts: Path) -> None:
    problems = records(texts, "problems")
    parts = [records(texts, name) for name in ("easy", "medium", "hard")]
    assert sorted(r.id for part in parts for r in part) == sorted(r.id for r in problems)
    for steps, part in enumerate(parts, start=1):
        assert len(part) > 60
        assert {(r.solution or "").count("=") for r in part} == {steps}


def test_what_is_held_out_is_in_no_training_text(texts: Path) -> None:
    training = [r for n in ("problems", "more_problems", "shuffled") for r in records(texts, n)]
    training += [r for m in SYNTHESES for r in records(texts, f"{m}_items")]
    known = {r.problem for r in training}
    heldout, other = records(texts, "heldout"), records(texts, "other_families")
    assert not known & {r.problem for r in (*heldout, *other)}
    families = {r.meta["family"] for r in training}
    assert {r.meta["family"] for r in heldout} <= families
    assert not families & {r.meta["family"] for r in other}
    assert Counter(r.meta["level"] for r in heldout) == {1: 30, 2: 30, 3: 30}


def test_prose_tells_true_facts_and_asks_nothing(texts: Path) -> None:
    prose = [r.text or "" for r in records(texts, "lessons") if r.id.startswith("lesson")]
    assert len(prose) == 200
    for text in prose:
        assert "?" not in text
        facts = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", text)
        assert facts
        for a, sign, b, result in facts:
            assert int(a) + (1 if sign == "+" else -1) * int(b) == int(result)


def test_what_the_base_reads_has_its_answers_in_it_and_no_sums(texts: Path) -> None:
    sizes = set()
    for record in records(texts, "reading"):
        blocks = (record.text or "").split("\n\n")
        sizes.add(len(blocks))
        for block in blocks:
            match = re.fullmatch(r"Question: (.+)\nSolution: .*The answer is (\d+)\.", block)
            assert match is not None
            assert re.search(rf"\b{match[2]}\b", match[1])
            assert "=" not in block
    assert sizes == {1, 2, 3, 4}


def test_the_control_has_the_same_texts_and_wrong_answers(texts: Path) -> None:
    problems, shuffled = records(texts, "problems"), records(texts, "shuffled")
    assert [r.problem for r in problems] == [r.problem for r in shuffled]
    assert Counter(r.solution for r in problems) == Counter(r.solution for r in shuffled)
    same = sum(a.solution == b.solution for a, b in zip(problems, shuffled, strict=True))
    assert same < 0.15 * len(problems)


def test_syntheses_are_what_their_method_makes(texts: Path) -> None:
    made = {method: records(texts, f"{method}_items") for method in SYNTHESES}
    assert len({len(found) for found in made.values()}) == 1
    words = [
        sum(len(r.render().split()) for r in records(texts, f"{method}_tokens"))
        for method in SYNTHESES
    ]
    assert max(words) - min(words) < 100
    assert all("[back]" in (r.solution or "") for r in made["retrospective"])
    verdicts = Counter("Check: wrong" in (r.solution or "") for r in made["tutorship"])
    assert min(verdicts.values()) > 50
    seeds = {r.problem: r.solution for r in records(texts, "problems")}
    assert not {r.problem for r in made["expansion"]} & set(seeds)
    for record in made["diversification"]:
        assert record.solution != seeds[record.problem]
        assert (record.solution or "").endswith(f"The answer is {record.answer}.")


@pytest.mark.parametrize("size", ["miniature", "study"])
@pytest.mark.parametrize("folder", STUDIES)
def test_every_section_of_every_road_is_read(folder: str, size: str, tmp_path: Path) -> None:
    plan = plan_study(read_study(EXAMPLES / folder / f"{size}.yaml"), tmp_path)
    for road in (*plan.shared, *(arm.road for arm in plan.arms if not arm.is_made_elsewhere)):
        if "synthesize" in road.raw:
            read_section(road)
        for name, config in SECTIONS.items():
            if name in road.raw:
                road.section(name, config)


def test_only_stories_have_sums_and_the_teacher_asks_for_them(texts: Path) -> None:
    """JiuZhang3.0's miniature: what influence is to find, and what the teacher makes of it."""
    reply = runpy.run_path(str(EXAMPLES / "51_jiuzhang3_loop" / "teacher.py"))["reply"]
    problems = {
        r.problem: r for r in (*records(texts, "problems"), *records(texts, "more_problems"))
    }
    told = {name: records(texts, name) for name in ("excerpts", "pages")}
    for written in told.values():
        sums = 0
        for record in written:
            answer = reply(f"grade: {record.text}")
            match = re.fullmatch(r"Problem: (.+)\nSolution: (.+)", answer)
            assert match is not None
            problem, solution = match.groups()
            if "=" in solution:
                sums += 1
                assert solution == problems[problem].solution
            else:
                assert problem not in problems
                assert solution.split()[-1].rstrip(".") in re.findall(r"\d+", record.text or "")
        assert sums == len(written) / 3 >= 200
    stories = {r.text for written in told.values() for r in written}
    targets = records(texts, "targets")
    assert len(targets) == 40
    assert not {(r.problem or "").removesuffix(" How many?") for r in targets} & stories


def test_the_benchmarks_of_the_miniatures_read_their_rows(texts: Path) -> None:
    from megatron_math.benchmarks.load import load_benchmark

    folder = EXAMPLES / "60_study_rq1" / "benchmarks"
    for name in ("new_problems", "other_families"):
        raw: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text())
        benchmark = load_benchmark(str(folder / f"{name}.yaml"), None, texts)
        assert benchmark.name == name
        shown = benchmark.prompt(benchmark.rows[0], 3)
        assert shown.count("Question:") == 4
        known = {r.problem for r in records(texts, "problems")}
        assert not known & {example["problem"] for example in raw["examples"]}
