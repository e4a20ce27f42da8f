"""Several answers to a question: classes, votes, pass@k, a reward; two files paired."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.cli import app
from megatron_math.engine.interface import Answer, Engine, Generation, Request
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate.compare import compare
from megatron_math.evaluate.grade import grade
from megatron_math.evaluate.pick import classes, majority, majority_at, of_samples, pass_at, pick
from megatron_math.evaluate.predictions import KEYS, write_predictions
from megatron_math.evaluate.run import run

SAMPLES = 4


class Drawing(Engine):
    """Of each question the right answer from every `step`-th sample on, likelier each time."""

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any = ()) -> list[Generation]:
        raise AssertionError("samples are asked for")

    def answer_group(self, requests: Any) -> list[Answer]:
        return [Answer(tuple(self._draw(request))) for request in requests]

    def _draw(self, request: Request) -> list[Generation]:
        a, b = (
            int(word.strip("?"))
            for word in str(request.prompt).split()
            if word.strip("?").isdigit()
        )
        texts = [f"The answer is {a + b}{'.0' * (i % 2)}" if i % (a % 3 + 1) == 0 else f"It is {i}"
                 for i in range(request.n)]  # fmt: skip
        return [
            Generation(text, "stop", 2, (-1.0 / (i + 1), -0.1) if request.logprobs else None)
            for i, text in enumerate(texts)
        ]


def sampled(road: Road, **more: Any) -> Road:
    section = road.raw["evaluate"] | {
        "who": ["after"], "samples": SAMPLES, "temperature": 0.7, **more,
    }  # fmt: skip
    return replace(road, raw=road.raw | {"evaluate": section})


def results(road: Road) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    folder = road.folder("70_evaluate") / "after" / "sums"
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads((folder / "scores.json").read_text()), rows, path


def test_votes_pass_and_the_mean(road: Road) -> None:
    run(sampled(road), open_engine=lambda _: Drawing())
    scores, rows, path = results(road)
    # Right are all four samples, samples 0 and 2, samples 0 and 3, of a third of the rows each.
    shares = [[4, 2, 2][number % 3] for number in range(23)]
    assert [sum(s["correct"] for s in row["samples"]) for row in rows] == shares
    found = scores["samples"]
    assert found["n"] == SAMPLES
    assert found["mean"]["value"] == pytest.approx(sum(shares) / 23 / 4)
    assert found["pass"]["1"]["value"] == pytest.approx(found["mean"]["value"])
    assert found["pass"]["2"]["value"] == pytest.approx(
        sum(1 - math.comb(4 - c, 2) / 6 for c in shares) / 23
    )
    assert found["pass"]["4"]["value"] == 1
    assert found["majority"]["4"]["value"] == scores["accuracy"] == 1, "42 and 42.0 are one class"
    low, high = found["mean"]["bootstrap95"]
    assert low < found["mean"]["value"] < high
    assert rows[1]["samples"][0]["class"] == rows[1]["samples"][2]["class"] == 0
    assert "4 samples" not in scores["protocol"]["decoding"]
    assert (scores["protocol"]["samples"], scores["protocol"]["pick"]) == (4, "majority")
    assert grade(path, benchmark=str(road.yaml_path.parent / "sums.yaml")) == scores


def test_the_likeliest_counts(road: Road) -> None:
    run(sampled(road, pick="likelihood"), open_engine=lambda _: Drawing())
    scores, rows, _ = results(road)
    assert {row["picked"] for row in rows} == {3}
    assert scores["correct"] == sum(row["samples"][3]["correct"] for row in rows) < 23
    assert rows[0]["samples"][0]["mean_logprob"] == pytest.approx(-0.55)


def test_a_given_reward_model_chooses(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ByLength:
        def __init__(self, folder: Path) -> None:
            assert folder == tmp_path

        def scores(self, pairs: list[tuple[str, str]], *, chat: bool) -> list[float]:
            assert not chat
            return [float(len(answer)) for _, answer in pairs]

    monkeypatch.setattr("megatron_math.engine.reward.RewardModel", ByLength)
    monkeypatch.setattr("megatron_math.evaluate.run._stage", _stage_without_reward())
    run(sampled(road, pick="reward", reward=str(tmp_path)), open_engine=lambda _: Drawing())
    scores, rows, _ = results(road)
    assert scores["accuracy"] == 1
    assert all(row["samples"][row["picked"]]["reward"] == max(s["reward"] for s in row["samples"])
               for row in rows)  # fmt: skip


def _stage_without_reward() -> Callable[..., Any]:
    """The folder of this test grows while it runs: its digest is no input here."""
    from megatron_math.evaluate.run import _stage

    def stage(road: Road, config: Any, *rest: Any) -> Any:
        return _stage(road, config.model_copy(update={"reward": None}), *rest)

    return stage


def test_classes_by_equality_and_ties() -> None:
    found = classes([["1/2", None, "0.5", "3", "50%"], [None], ["x+1", "1 + x", "x"]])
    assert found == [[0, None, 0, 1, 0], [None], [0, 0, 1]]
    assert classes([]) == []
    assert majority([None, 1, 0, 0, 1]) == 2, "of equal classes the one that came first"
    assert majority([None, None]) == 0
    samples = [{"class": c, "correct": c == 0, "mean_logprob": -c, "reward": c} for c in (1, 0, 0)]
    assert [pick(samples, how) for how in ("majority", "first", "likelihood", "reward")] == [
        1,
        0,
        1,
        0,
    ]
    assert majority_at(samples, 1) == pytest.approx(2 / 3)
    assert majority_at(samples, 3) == 1


def test_pass_at_k_is_the_mean_over_all_choices() -> None:
    for n, correct in ((5, 0), (5, 2), (6, 6), (7, 3)):
        right = [i < correct for i in range(n)]
        for k in range(1, n + 1):
            chosen = list(itertools.combinations(right, k))
            assert pass_at(n, correct, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    rows = [[{"class": 0, "correct": True}] * 3] * 2
    assert set(of_samples(rows)["pass"]) == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temperature": 0}, "all alike"),
        ({"pick": "reward"}, "go together"),
        ({"pick": "best"}, "'majority'"),
    ],
)
def test_what_cannot_be_sampled(road: Road, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(sampled(road, **more), open_engine=lambda _: ScriptedEngine(lambda _: ""))


def write(path: Path, right: list[bool], **more: Any) -> Path:
    rows = [
        dict.fromkeys(KEYS, "")
        | {"id": str(i), "benchmark": "sums", "correct": ok, "meta": {}}
        | more
        for i, ok in enumerate(right)
    ]
    write_predictions(path, rows)
    return path


def test_two_models_on_the_same_problems(tmp_path: Path) -> None:
    from scipy.stats import binomtest, ttest_1samp

    rng = np.random.default_rng(3)
    first = (rng.random(200) < 0.4).tolist()
    second = [a or b for a, b in zip(first, (rng.random(200) < 0.2).tolist(), strict=True)]
    second[:4] = [False] * 4
    paths = [write(tmp_path / name, ok) for name, ok in (("a", first), ("b", second))]
    found = compare(*paths)
    gains = np.array(second, float) - np.array(first, float)
    assert found["difference"] == pytest.approx(gains.mean())
    assert found["interval95"] == pytest.approx(list(ttest_1samp(gains, 0).confidence_interval()))
    only = int((gains < 0).sum()), int((gains > 0).sum())
    assert (found["only_first"], found["only_second"]) == only
    assert found["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    low, high = found["bootstrap95"]
    assert low == pytest.approx(found["interval95"][0], abs=0.02)
    assert high == pytest.approx(found["interval95"][1], abs=0.02)
    with pytest.raises(UserError, match="different problems"):
        compare(paths[0], write(tmp_path / "c", first[:-1]))


def test_grade_against_another_file(road: Road, add_up: Callable[[str], str]) -> None:
    run(road, open_engine=lambda folder: ScriptedEngine(
        add_up if folder.parent.name == "60_export" else lambda _: "no"))  # fmt: skip
    before, after = (road.folder("70_evaluate") / who / "sums" / "predictions.jsonl"
                     for who in ("before", "after"))  # fmt: skip
    benchmark = str(road.yaml_path.parent / "sums.yaml")
    command = ["grade", str(after), "--against", str(before), "--benchmark", benchmark]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "right only in" in result.output
    as_json = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert as_json["against"]["second"] == as_json["accuracy"] > as_json["against"]["first"] == 0
