"""Programs in answers: scripted models, a real sandbox, and the class in which each answer ends."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.road import Road
from megatron_math.engine.interface import Answer, Request
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate.run import run
from megatron_math.evaluate.tool import program_at_end

# Rows like GSM-Hard's: GSM8K problems with large numbers, floats as targets.
ROWS = [
    ("right", "A farm sells 9264517 eggs in trays of 12. How many eggs are left over?", 1.0),
    ("mended", "Janet saves $6785.4 a week for 52 weeks. How many dollars?", 352840.8),
    ("failing", "A train of 417 cars drives 8923.5 km. How many car-kilometres?", 3721099.5),
    ("looping", "What is 7 times 1000000?", 7000000.0),
    ("rounds", "What is 8 times 1000000?", 8000000.0),
    ("hostile", "What is 9 times 1000000?", 9000000.0),
    ("plain", "What is 2 plus 1000000?", 1000002.0),
    ("clock", "What is 3 plus 1000000?", 1000003.0),
]
SAYS = {
    "right": ["Divide.\n```python\nprint(9264517 % 12)\n```\n```output\n5\n```\nmade up",
              "So the answer is \\boxed{1}."],
    "mended": ["```python\nprint(6785.4 * weeks)\n```", "Hm.\n```python\nprint(6785.4 * 52)\n```",
               "The answer is \\boxed{352840.8}."],
    "failing": ["```python\n1 / 0\n```", "I cannot. The answer is \\boxed{0}."],
    "looping": ["```python\nwhile True: pass\n```", "It is \\boxed{7000000}."],
    "rounds": ["```python\nprint(8)\n```"] * 9,
    "hostile": ["```python\nimport socket\nsocket.socket()\n```", "Then \\boxed{9000001}."],
    "clock": ["```python\nimport time\nprint(time.time_ns())\n```", "It is \\boxed{1000003}."],
    "plain": ["It is \\boxed{1000002}. ```python\nprint(1)\n```"],
}  # fmt: skip


def script(prompt: str) -> str:
    """What comes next, by how many outputs stand there already."""
    name = next(name for name, problem, _ in ROWS if problem in prompt)
    return SAYS[name][prompt.count("```output")]


class Talking(ScriptedEngine):
    """Keeps what it was asked."""

    requests: list[Request] = []  # noqa: RUF012

    def answer_group(self, requests: Any) -> list[Answer]:
        self.requests = [*self.requests, *requests]
        return super().answer_group(requests)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict, dict, Road]]:
    """(scores, predictions by name, the road)."""
    folder = tmp_path_factory.mktemp("tool")
    rows = [{"input": problem, "target": target, "id": name} for name, problem, target in ROWS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = {"name": "gsm_hard", "rows": str(folder / "rows.jsonl"), "way": "tool"}
    section = {"benchmarks": [choice], "who": ["after"], "tool": {"wall_seconds": 1}}
    (folder / "road.yaml").write_text(json.dumps({"name": "tool", "evaluate": section}))
    road = Road.load(folder / "road.yaml", runs=folder / "runs")
    hf = road.folder("60_export") / "hf"
    hf.mkdir(parents=True)
    (hf.parent / "DONE").write_text("a fingerprint\n")
    run(road, open_engine=lambda _: ScriptedEngine(script))
    return *read(road), road


def read(road: Road) -> tuple[dict, dict]:
    folder = road.folder("70_evaluate") / "after" / "gsm_hard"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    names = [name for name, _, _ in ROWS]
    return json.loads((folder / "scores.json").read_text()), dict(zip(names, rows, strict=True))


def test_each_answer_ends_in_its_class(asked: tuple[dict, dict, Road]) -> None:
    scores, rows, _ = asked
    assert {name: row["runs"] for name, row in rows.items()} == {
        "right": ["ok"], "mended": ["error", "ok"], "failing": ["error"], "looping": ["timeout"],
        "rounds": ["ok"] * 4, "hostile": ["forbidden"], "plain": [],
        "clock": ["ok"],
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["correct"]} == {
        "right", "mended", "looping", "plain", "clock",
    }  # fmt: skip
    assert scores["accuracy"] == 5 / 8
    assert scores["tool"] == {
        "runs": {"ok": 7, "error": 2, "timeout": 1, "forbidden": 1},
        "last_run": {"ok": 4, "error": 1, "timeout": 1, "forbidden": 1, "none": 1},
        "out_of_rounds": 1,
        "programs": {"0": 1, "1": 5, "2": 1, "4": 1},
    }
    assert rows["rounds"]["finish"] == "rounds"
    assert scores["truncated"] == 0


def test_the_program_s_output_stands_in_the_answer_and_not_the_model_s(
    asked: tuple[dict, dict, Road],
) -> None:
    _, rows, _ = asked
    assert rows["right"]["output"] == (
        "Divide.\n```python\nprint(9264517 % 12)\n```\n```output\n1\n```\nSo the answer is "
        "\\boxed{1}."
    )
    assert "NameError" in rows["mended"]["output"]
    limits = ("longer than 1 s", "more than 1 s of processor time")  # a loop reaches both at once
    assert any(f"[timeout: {limit}]" in rows["looping"]["output"] for limit in limits)


def test_chats_take_turns_and_what_is_kept_is_not_asked_again(
    asked: tuple[dict, dict, Road],
) -> None:
    scores, _, road = asked
    stage = road.folder("70_evaluate")
    content = (stage / "after" / "gsm_hard" / "predictions.jsonl").read_bytes()
    (stage / "DONE").unlink()
    (stage / "after" / "gsm_hard" / "scores.json").unlink()
    with open(stage / "programs.jsonl", "ab") as file:
        file.write(b'{"key": "torn')

    def nobody(_: Path) -> ScriptedEngine:
        raise AssertionError("all answers are there")

    run(road, open_engine=nobody)
    assert read(road)[0] == scores
    assert (stage / "after" / "gsm_hard" / "predictions.jsonl").read_bytes() == content
    section = road.raw["evaluate"]
    choice = section["benchmarks"][0] | {"way": "tool chat"}
    talking = Talking(script)
    chat = replace(road, raw=road.raw | {"evaluate": section | {"benchmarks": [choice]}})
    run(chat, open_engine=lambda _: talking)
    assert read(road)[0]["accuracy"] == scores["accuracy"]
    last = max(talking.requests, key=lambda request: len(request.prompt))
    assert [message.role for message in last.prompt] == ["user", *["assistant", "user"] * 3]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("a\n```python\nprint(1)\n```", "print(1)\n"),
        ("```python\nx\n``` and ```python \ny\n```\n\n", "y\n"),
        ("```python\nprint(1)\n``` done", None),
        ("```python\nprint(1)", None),
        ("```output\n1\n```", None),
        ("```python\nx\n```\n```\ny\n```", None),
        ("```python3x\nx\n```", None),
        ("", None),
    ],
)
def test_only_a_program_at_the_end_is_run(text: str, program: str | None) -> None:
    assert program_at_end(text) == program
