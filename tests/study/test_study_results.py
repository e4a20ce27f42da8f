"""From predictions and losses to the table: what is paired, what is missing, what is claimed."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from study_files import study_of

from megatron_math.base.errors import UserError
from megatron_math.base.statistics import Estimate
from megatron_math.study.plan import StudyPlan, plan_study, read_study
from megatron_math.study.results import make_results, verdict
from megatron_math.study.show import render

ITEMS = 60


def plan_of(folder: Path, **changes: Any) -> StudyPlan:
    changes = {"seeds": [1, 2, 3, 4], "resamples": 500} | changes
    return plan_study(read_study(study_of(folder, **changes)), folder / "runs")


def finish(
    root: Path,
    right: list[bool],
    losses: dict[str, float],
    first_item: int = 0,
    exam: str = "sums",
) -> None:
    """What an arm leaves behind, as far as results read it."""
    for stage in ("50_train", "70_evaluate"):
        (root / stage).mkdir(parents=True, exist_ok=True)
        (root / stage / "DONE").write_text("x\n")
    (root / "50_train/stats.json").write_text(json.dumps({"tokens": 1000}))
    row = {"iteration": 9, "loss": losses, "tokens": dict.fromkeys(losses, 100)}
    (root / "50_train/validation.jsonl").write_text(f'{{"iteration": 1}}\n{json.dumps(row)}\n')
    folder = root / "70_evaluate/after" / exam
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": str(first_item + number),
            "benchmark": "sums",
            "prompt": "",
            "reference": "1",
            "output": "1",
            "finish": "stop",
            "extracted": "1",
            "correct": correct,
            "meta": {"level": str(1 + number % 2)},
        }
        for number, correct in enumerate(right)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(text)


def finish_all(plan: StudyPlan, share: dict[str, float], *, first_item: int = 0) -> None:
    for arm in plan.arms:
        rng = np.random.default_rng(arm.seed)
        right = (rng.random(ITEMS) < share[arm.arm]).tolist()
        losses = {"general": 3.0 + 0.1 * arm.seed, "text": 2.0 - share[arm.arm]}
        finish(arm.road.root, right, losses, first_item * arm.seed)


def results(plan: StudyPlan) -> dict[str, Any]:
    return make_results(plan.config, plan.arms, plan.folder)


def test_means_and_differences_are_those_of_the_predictions(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    facts = results(plan)
    assert facts == json.loads((plan.folder / "results.json").read_text())
    found = facts["arms"]["mixed"]["metrics"]["sums"]
    rows = [np.random.default_rng(seed).random(ITEMS) < 0.8 for seed in (1, 2, 3, 4)]
    assert found["mean"] == pytest.approx(np.mean(rows))
    assert found["by_seed"]["2"] == pytest.approx(np.mean(rows[1]))
    assert (found["seeds"], found["items"]) == (4, ITEMS)
    assert found["low"] < found["mean"] < found["high"] <= 1
    (difference,) = [row for row in facts["compare"] if row["metric"] == "sums"]
    plain = facts["arms"]["plain"]["metrics"]["sums"]["mean"]
    assert difference["mean"] == pytest.approx(found["mean"] - plain)
    assert difference["verdict"] == "yes"
    assert difference["p"] < 0.05
    assert difference["p_seeds"] == pytest.approx(2 / 2**4)
    assert facts["arms"]["plain"]["trained_tokens"] == dict.fromkeys("1234", 1000)


def test_metrics_are_benchmarks_groups_losses_and_the_average(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    facts = results(plan)
    assert facts["metrics"] == [
        "average",
        "sums",
        "sums[level=1]",
        "sums[level=2]",
        "validation loss",
        "validation loss[general]",
        "validation loss[text]",
    ]
    found = facts["arms"]["plain"]["metrics"]
    assert found["sums[level=1]"]["items"] == ITEMS // 2
    assert found["validation loss[general]"]["mean"] == pytest.approx(3.25)
    assert found["validation loss"]["by_seed"]["1"] == pytest.approx((3.1 + 1.7) / 2)


def test_of_a_benchmark_that_is_asked_in_several_ways_each_road_has_its_best(tmp_path) -> None:
    plan = plan_of(tmp_path)
    shares = {"plain": {0: 0.25, 3: 0.25}, "mixed": {0: 0.75, 3: 0.5}}
    shares_of_the_second_seed = shares | {"mixed": {0: 0.5, 3: 1.0}}
    for arm in plan.arms:
        ways = (shares_of_the_second_seed if arm.seed == 2 else shares)[arm.arm]
        for shots, share in ways.items():
            right = [number < share * ITEMS for number in range(ITEMS)]
            finish(arm.road.root, right, {"general": 3.0}, exam=f"sums-{shots}shot")
        finish(arm.road.root, [True] * ITEMS, {"general": 3.0}, exam="asked-once")
        of = {"sums": {str(shots): share for shots, share in ways.items()}}
        summary = {"of": of | {"asked-once": {"3": 1.0}}}
        (arm.road.root / "70_evaluate/after/summary.json").write_text(json.dumps(summary))
    metrics = results(plan)["arms"]["mixed"]["metrics"]
    assert metrics["sums"]["by_seed"] == {"1": 0.75, "2": 1.0, "3": 0.75, "4": 0.75}
    assert metrics["sums"]["items"] == ITEMS
    assert metrics["sums-3shot"]["by_seed"] == {"1": 0.5, "2": 1.0, "3": 0.5, "4": 0.5}
    assert metrics["average"]["by_seed"]["1"] == pytest.approx((0.75 + 1.0) / 2)


def test_losses_of_texts_are_paired_by_document(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    for arm in plan.arms:
        folder = arm.road.root / "70_evaluate"
        losses = [3.0 + n % 7 + 0.25 * (arm.arm == "mixed") for n in range(20)]
        (folder / "retention/after").mkdir(parents=True)
        text = json.dumps({"losses": [None, *losses]})
        (folder / "retention/after/wiki.json").write_text(text)
        (folder / "retention.json").write_text('{"texts": [{"text": "wiki"}]}')
    facts = results(plan)
    found = facts["arms"]["mixed"]["metrics"]["validation loss of text[wiki]"]
    assert (found["items"], found["seeds"]) == (20, 4)
    (change,) = [c for c in facts["compare"] if c["metric"] == "validation loss of text[wiki]"]
    assert (change["mean"], change["low"], change["high"]) == pytest.approx((0.25, 0.25, 0.25))


def test_a_table_and_a_csv_say_the_same(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metrics=["sums", "sums[level=1]"])
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    facts = results(plan)
    rows = list(csv.DictReader(io.StringIO((plan.folder / "results.csv").read_text())))
    assert [(row["kind"], row["name"], row["metric"]) for row in rows] == [
        ("arm", "plain", "sums"),
        ("arm", "plain", "sums[level=1]"),
        ("arm", "mixed", "sums"),
        ("arm", "mixed", "sums[level=1]"),
        ("difference", "mixed - plain", "sums"),
        ("difference", "mixed - plain", "sums[level=1]"),
    ]
    assert float(rows[4]["mean"]) == facts["compare"][0]["mean"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(facts))
    text = console.export_text()
    assert "sums[level=1]" in text
    assert f"{100 * facts['arms']['mixed']['metrics']['sums']['mean']:.1f} (" in text
    assert f"{100 * facts['compare'][0]['mean']:+.1f}" in text


def test_what_is_missing_is_named_and_pairs_are_of_common_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metrics=["sums"])
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    (plan.folder / "mixed-s3/70_evaluate/DONE").unlink()
    facts = results(plan)
    assert facts["missing"] == {"mixed-s3": "70_evaluate is not finished"}
    assert facts["arms"]["mixed"]["metrics"]["sums"]["seeds"] == 3
    assert facts["arms"]["plain"]["metrics"]["sums"]["seeds"] == 4
    assert list(facts["compare"][0]["by_seed"]) == ["1", "2", "4"]


def test_nothing_made_yet_is_an_empty_table(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metrics=["sums"])
    facts = results(plan)
    assert len(facts["missing"]) == 8
    assert facts["compare"] == []
    Console(file=io.StringIO()).print(render(facts))


def test_other_items_in_every_seed_leave_means_of_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metrics=["sums"])
    finish_all(plan, {"plain": 0.3, "mixed": 0.8}, first_item=1000)
    found = results(plan)["arms"]["mixed"]["metrics"]["sums"]
    assert (found["seeds"], found["items"]) == (4, 1)


def test_a_metric_that_nobody_has_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metrics=["products"])
    finish_all(plan, {"plain": 0.3, "mixed": 0.8})
    with pytest.raises(
        UserError, match="no arm has the metric 'products'; there are average, sums"
    ):
        results(plan)


def test_sums_of_arms_and_shares_of_gains(tmp_path: Path) -> None:
    arms = {name: {} for name in ("control", "sft", "cpt", "plain")}
    gains = [{"arm": "sft", "reference": "cpt", "control": "control", "claim": "a part"}]
    weights = {"cpt": 1, "sft": -1, "control": -0.5, "plain": 0.5}
    compare = [{"weights": weights, "claim": "a sum"}]
    plan = plan_of(tmp_path, metrics=["sums"], arms=arms, compare=compare, gains=gains)
    shares = {"control": 0.1, "sft": 0.5, "cpt": 0.9, "plain": 0.1}
    finish_all(plan, shares)
    facts = results(plan)
    means = {arm: facts["arms"][arm]["metrics"]["sums"]["mean"] for arm in arms}
    (gain,), (total,) = facts["gains"], facts["compare"]
    wanted = (means["sft"] - means["control"]) / (means["cpt"] - means["control"])
    assert gain["share"]["mean"] == pytest.approx(wanted)
    assert gain["share"]["low"] < wanted < gain["share"]["high"]
    assert total["mean"] == pytest.approx(sum(w * means[arm] for arm, w in weights.items()))
    assert total["name"] == "cpt - sft - 0.5 control + 0.5 plain"


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expect", "said"),
    [
        (0.1, 0.2, 5, "above", "yes"),
        (-0.1, 0.2, 5, "above", "not shown"),
        (-0.2, -0.1, 5, "above", "no"),
        (-0.2, -0.1, 5, "below", "yes"),
        (0.1, 0.2, 5, "below", "no"),
        (-0.1, 0.1, 5, "no difference", "not contradicted"),
        (0.1, 0.2, 5, "no difference", "no"),
        (0.1, 0.2, 1, "above", "not shown"),
    ],
)
def test_verdicts(low: float, high: float, seeds: int, expect: str, said: str) -> None:
    found = Estimate((low + high) / 2, low, high, 0.01, 0.01, None, (low, high), seeds, 10)
    assert verdict(found, expect) == said
