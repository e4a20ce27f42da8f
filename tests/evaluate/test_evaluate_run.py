"""The room: kills change nothing, nothing is asked twice, a missing model is no zero."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.engine.interface import Engine, Generation
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate.grade import grade
from megatron_math.evaluate.run import run

Script = Callable[[str], str]
NUM_ROWS, BLOCK_ROWS = 23, 4  # of the fixture: 2 batches of 2 rows


class Killed(Exception):  # noqa: N818
    """Stands for a kill in the middle of the work."""


class DyingEngine(Engine):
    """Answers like `script` and dies when it is asked one prompt more than `survives`."""

    def __init__(self, script: Script, survives: int) -> None:
        self._scripted = ScriptedEngine(script)
        self._left = survives
        self.asked = self._scripted.asked

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        self._left -= len(prompts)
        if self._left < 0:
            raise Killed
        return self._scripted.generate(prompts, max_new_tokens, stop)


def contents(road: Road) -> dict[str, bytes]:
    """Every file of the stage's result, without manifest and done-mark."""
    folder = road.folder("70_evaluate")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "DONE")
    }


def scores(road: Road, who: str = "after") -> dict[str, Any]:
    return json.loads((road.folder("70_evaluate") / who / "sums" / "scores.json").read_text())


def test_scores_say_what_was_right(road: Road, add_up: Script) -> None:
    run(road, open_engine=lambda _: ScriptedEngine(add_up))
    sums = [i + 2 * i % 7 + 10 for i in range(NUM_ROWS)]
    found = scores(road)
    assert found["n"] == NUM_ROWS
    assert found["correct"] == sum(total <= 30 for total in sums) > 10
    assert found["truncated"] == sum(total > 32 for total in sums) > 0
    assert found["no_answer"] == found["truncated"]
    assert 0 < found["interval95"][0] < found["accuracy"] < found["interval95"][1] < 1
    assert sum(g["n"] for name, g in found["groups"].items() if "," not in name) == NUM_ROWS
    assert sum(g["n"] for name, g in found["groups"].items() if "," in name) == NUM_ROWS
    assert set(found["protocol"]) >= {"shots", "max_new_tokens", "rows_sha256", "dtype", "limit"}
    stats = json.loads((road.folder("70_evaluate") / "stats.json").read_text())
    assert stats["before"]["sums"]["correct"] == found["correct"]
    rows = (road.folder("70_evaluate") / "after" / "sums" / "predictions.jsonl").read_text()
    first = json.loads(rows.splitlines()[0])
    assert first == {
        "id": "sum-0", "benchmark": "sums", "prompt": "Question: What is 0 + 10?\nSolution:",
        "reference": "10", "output": " The answer is 10.", "finish": "stop", "extracted": "10",
        "correct": True, "meta": {"level": "1", "level, operands_seen": "1, true"},
    }  # fmt: skip


@pytest.mark.parametrize("survives", [0, 1, 8, 20, 23, 30, 45])
def test_killed_and_started_again_equals_unbroken(
    road: Road, tmp_path: Path, add_up: Script, survives: int
) -> None:
    unbroken = replace(road, root=tmp_path / "unbroken")
    shutil.copytree(road.root, unbroken.root)
    run(unbroken, open_engine=lambda _: DyingEngine(add_up, 1000))

    dying = DyingEngine(add_up, survives)
    with pytest.raises(Killed):
        run(road, open_engine=lambda _: dying)
    assert not (road.folder("70_evaluate") / "DONE").exists()
    whole_exam, rest = divmod(survives, NUM_ROWS)
    known = whole_exam * NUM_ROWS + rest // BLOCK_ROWS * BLOCK_ROWS
    assert len(dying.asked) == known, "all that was answered was written"
    second = DyingEngine(add_up, 1000)
    assert not run(road, open_engine=lambda _: second).was_done
    assert len(second.asked) == 2 * NUM_ROWS - known, "only what is missing is asked"
    assert contents(road) == contents(unbroken)


@pytest.mark.parametrize("part", ["answers.jsonl", "after/sums/predictions.jsonl"])
def test_damage_is_mended(road: Road, add_up: Script, part: str) -> None:
    """Of torn answers the last is asked again; predictions are made again from the answers."""
    run(road, open_engine=lambda _: ScriptedEngine(add_up))
    whole = contents(road)
    stage = road.folder("70_evaluate")
    path = stage / part
    path.write_bytes(path.read_bytes()[:-10])
    (stage / "after" / "sums" / "scores.json").unlink()
    (stage / "DONE").unlink()
    engine = ScriptedEngine(add_up)
    run(road, open_engine=lambda _: engine)
    assert len(engine.asked) == (part == "answers.jsonl")
    assert contents(road) == whole


def test_up_to_date_asks_nothing_and_a_new_model_is_asked_all(
    road: Road, finish: Callable[..., Path], add_up: Script
) -> None:
    run(road, open_engine=lambda _: ScriptedEngine(add_up))

    def no_engine(_: Path) -> Engine:
        raise AssertionError("no engine is needed")

    assert run(road, open_engine=no_engine).was_done
    finish("60_export", "hf/config.json", "other weights")
    # The same inputs to the made-up stage give the same fingerprint: make it another one.
    (road.folder("60_export") / "DONE").write_text("another fingerprint\n")
    asked: dict[str, ScriptedEngine] = {}

    def engine(folder: Path) -> Engine:
        return asked.setdefault(folder.parent.name, ScriptedEngine(lambda _: "The answer is 1."))

    run(road, open_engine=engine)
    assert {name: len(one.asked) for name, one in asked.items()} == {"60_export": NUM_ROWS}
    assert scores(road)["correct"] == 0
    assert scores(road, "before")["correct"] > 10


def test_a_second_opinion_stands_beside(
    road: Road, add_up: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(road, open_engine=lambda _: ScriptedEngine(add_up))
    folder = road.folder("70_evaluate") / "after" / "sums"
    before = scores(road)
    monkeypatch.setattr(
        "megatron_math.evaluate.grade.second_opinions",
        lambda pairs, _: [None if a is None else a != "13" for a, _ in pairs],
    )
    section = road.raw["evaluate"] | {"second_opinion": True}
    asked = replace(road, raw=road.raw | {"evaluate": section})
    run(asked, open_engine=lambda _: ScriptedEngine(lambda _: "not asked"))
    rows = [json.loads(line) for line in (folder / "disputed.jsonl").read_text().splitlines()]
    assert {"correct": True, "math_verify": False}.items() <= rows[0].items()
    assert rows[0]["extracted"] == rows[0]["reference"] == "13"
    assert all(row["correct"] != row["math_verify"] for row in rows)
    assert scores(road) == before
    run(road, open_engine=lambda _: ScriptedEngine(lambda _: "not asked"))
    assert not (folder / "disputed.jsonl").exists()


def test_limit_and_shots_reach_the_prompts(road: Road, tmp_path: Path, add_up: Script) -> None:
    choice = {"name": str(tmp_path / "sums.yaml"), "rows": str(tmp_path / "sums.jsonl")}
    evaluate = {"benchmarks": [choice | {"limit": 3, "shots": 1}], "who": ["after"]}
    engine = ScriptedEngine(add_up)
    changed = replace(road, raw=road.raw | {"evaluate": evaluate})
    run(road, open_engine=lambda _: ScriptedEngine(add_up))
    run(changed, open_engine=lambda _: engine)
    assert engine.asked[0] == (
        "Question: What is 1 + 1?\nSolution: The answer is 2.\n\n"
        "Question: What is 0 + 10?\nSolution:"
    )
    assert scores(road)["n"] == scores(road)["protocol"]["limit"] == 3
    assert not (road.folder("70_evaluate") / "before").exists(), "another configuration's scores"


def test_a_missing_model_has_a_reason_and_no_score(
    road: Road, add_up: Script, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(road.folder("00_base") / "hf")
    with caplog.at_level("INFO", logger="megatron_math"):
        run(road, open_engine=lambda _: ScriptedEngine(add_up))
    stage = road.folder("70_evaluate")
    missing = json.loads((stage / "before" / "missing.json").read_text())
    assert "fresh weights" in missing["missing"]
    assert json.loads((stage / "stats.json").read_text())["before"] == missing
    assert not list(stage.glob("before/*/scores.json"))
    assert "before: missing" in caplog.text
    assert "before: 0" not in caplog.text
    shutil.rmtree(road.folder("60_export"))
    with pytest.raises(UserError, match="60_export is needed"):
        run(road)


def test_grade_gives_the_same_scores_and_sees_a_changed_output(
    road: Road, tmp_path: Path, add_up: Script, caplog: pytest.LogCaptureFixture
) -> None:
    run(road, open_engine=lambda _: ScriptedEngine(add_up))
    path = road.folder("70_evaluate") / "after" / "sums" / "predictions.jsonl"
    again = grade(path, benchmark=str(tmp_path / "sums.yaml"))
    assert again == scores(road)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["correct"]
    rows[0]["output"] = "The answer is 11."
    rows[1]["correct"] = not rows[1]["correct"]
    planted = tmp_path / "planted.jsonl"
    planted.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level("WARNING", logger="megatron_math"):
        regraded = grade(planted, benchmark=str(tmp_path / "sums.yaml"))
    assert regraded["correct"] == again["correct"] - 1, "verdicts come from outputs, not the file"
    assert "2 verdicts differ" in caplog.text
    with pytest.raises(UserError, match="there is no benchmark 'sums'"):
        grade(path)
    rows[1]["benchmark"] = "products"
    planted.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="mixes benchmarks"):
        grade(planted)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.benchmark=[gsm8k]", "unknown key 'benchmark'"),
        ("evaluate.benchmarks=[gsm8k, gsm8k]", "chosen twice"),
        ("evaluate.benchmarks=[]", "at least 1 item"),
        ("evaluate.benchmarks=[sudoku]", "there is no benchmark 'sudoku'"),
        ("evaluate.who=[afterwards]", "'after' or 'other'"),
        ("evaluate.benchmarks=[{name: svamp, rows: a, stage: b}]", "not both"),
        ("evaluate.benchmarks=[{name: heldout_templates, stage: 10_synthesize}]", "not finished"),
        ("evaluate.benchmarks=[{name: svamp, rows: nowhere.jsonl}]", "nowhere.jsonl does not"),
    ],
)
def test_bad_requests_are_explained(road: Road, override: str, message: str) -> None:
    asked = Road.load(road.yaml_path, [override], road.runs)
    with pytest.raises(UserError, match=message):
        run(asked)
    assert not road.folder("70_evaluate").exists()


def test_a_real_model_folder_is_asked(road: Road, tiny_hf: Path) -> None:
    """The default engine, a model that babbles: every row has an output, batches do not matter."""
    for stage in ("00_base", "60_export"):
        shutil.rmtree(road.folder(stage) / "hf")
        shutil.copytree(tiny_hf, road.folder(stage) / "hf")
    evaluate = road.raw["evaluate"] | {"who": ["after"]}
    first = replace(road, raw=road.raw | {"evaluate": evaluate})
    run(first)
    path = road.folder("70_evaluate") / "after" / "sums" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"sum-{i}" for i in range(NUM_ROWS)]
    assert all(row["output"] for row in rows)
    content = path.read_bytes()
    for kept in (path, road.folder("70_evaluate") / "answers.jsonl"):
        kept.unlink()
    (road.folder("70_evaluate") / "DONE").unlink()
    run(replace(road, raw=road.raw | {"evaluate": evaluate | {"batch_size": 7}}))
    assert path.read_bytes() == content
