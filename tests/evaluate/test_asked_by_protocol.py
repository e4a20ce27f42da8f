"""evaluate.protocol: ways and numbers of examples per set, one number, and what it is made of."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.engine.interface import Answer, Request
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate.run import run

PROTOCOL = """
name: mine
version: 1
says: of each set the higher of zero- and few-shot
asked: [{benchmark: SUMS, shots: [0, 1]}, {benchmark: gsm8k, shots: [0]}]
take: highest
mean_of: MEAN
prompt: "Please add.\\nQuestion: {problem}\\nSolution:"
max_new_tokens: 12
temperature: 0.5
"""


class Recorder(ScriptedEngine):
    """Keeps the requests, too."""

    def __init__(self, script: Callable[[str], str]) -> None:
        super().__init__(script)
        self.requests: list[Request] = []

    def answer_group(self, requests: Any) -> list[Answer]:
        self.requests += requests
        return super().answer_group(requests)


def asked(road: Road, mean_of: str, **changes: Any) -> Road:
    folder = road.yaml_path.parent
    text = PROTOCOL.replace("SUMS", str(folder / "sums.yaml")).replace("MEAN", mean_of)
    (folder / "mine.yaml").write_text(text)
    section = {
        "protocol": str(folder / "mine.yaml"),
        "benchmarks": [{"name": str(folder / "sums.yaml"), "rows": str(folder / "sums.jsonl")}],
        "who": ["after"],
    }
    return replace(road, raw=road.raw | {"evaluate": section | changes})


def test_each_set_is_asked_as_the_protocol_says(road: Road, add_up: Callable[[str], str]) -> None:
    engine = Recorder(lambda p: add_up(p) if "What is 1 + 1?" in p else " I do not know.")
    run(asked(road, "[sums]"), open_engine=lambda _: engine)
    first, shot = engine.requests[0], engine.requests[23]
    assert first.prompt == "Please add.\nQuestion: What is 0 + 10?\nSolution:"
    assert str(shot.prompt).startswith("Question: What is 1 + 1?\nSolution: The answer is 2.\n\nPl")
    assert {(r.temperature, r.max_new_tokens, r.n) for r in engine.requests} == {(0.5, 12, 1)}
    assert len({request.seed for request in engine.requests}) == 23, "rows draw apart"
    folder = road.folder("70_evaluate") / "after"
    summary = json.loads((folder / "summary.json").read_text())
    few = json.loads((folder / "sums-1shot" / "scores.json").read_text())
    assert json.loads((folder / "sums-0shot" / "scores.json").read_text())["accuracy"] == 0
    assert summary["of"] == {"sums": {"0": 0.0, "1": few["accuracy"]}}
    assert summary["taken"] == {"sums": few["accuracy"]}
    assert summary["mean"] == few["accuracy"] > 0.5
    assert summary["says"] == few["protocol"]["asked_by"]["says"]
    assert "higher of zero- and few-shot" in summary["says"]
    assert few["protocol"]["decoding"] == "temperature 0.5, top_p 1, seed 1234"
    assert summary["missing"] == ["gsm8k with 0 examples"]
    stats = json.loads((road.folder("70_evaluate") / "stats.json").read_text())
    assert stats["after"]["summary"]["mean"] == summary["mean"]


def test_no_mean_without_a_set_that_it_is_made_of(
    road: Road, add_up: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="megatron_math"):
        run(asked(road, "[sums, gsm8k]"), open_engine=lambda _: ScriptedEngine(add_up))
    summary = json.loads((road.folder("70_evaluate") / "after" / "summary.json").read_text())
    assert summary["mean"] is None
    assert summary["taken"]["sums"] > 0
    assert "no mean, for want of gsm8k with 0 examples" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "mathgpt9b"}, "there is no protocol 'mathgpt9b'"),
        ({"benchmarks": ["svamp"]}, "svamp is not asked by the protocol mine"),
        ({"benchmarks": [{"name": "gsm8k", "shots": 3}]}, "the protocol says shots"),
        ({"temperature": 0.1}, "the protocol says temperature"),
        ({"benchmarks": []}, "no rows of mine's sets"),
        ({"protocol": None, "benchmarks": []}, "at least 1 item"),
    ],
)
def test_what_a_protocol_cannot_be_asked(
    road: Road, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEGATRON_MATH_DATA", raising=False)
    with pytest.raises(UserError, match=message):
        run(asked(road, "[sums]", **changes))
