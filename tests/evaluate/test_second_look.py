"""What `grade` says beside the score: its spread over rules, and what math-verify disputes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megatron_math.cli import app
from megatron_math.evaluate.second_look import look_again

OUTPUTS = [
    (r"so \boxed{5}", "5", True),
    ("The answer is 6.", "6", True),
    ("7", "7", True),
    (r"\boxed{1} The answer is 8.", "8", False),
    ("no number", "9", False),
    ("The answer is [1, 2].", "(1,2)", False),
    ("The answer is 1000 dollars.", r"\$1,000", True),
]


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    rows = [
        {
            "id": str(number), "benchmark": "math500", "prompt": "", "reference": reference,
            "output": output, "finish": "length" if number == 4 else "stop", "extracted": None,
            "correct": correct, "meta": {},
        }
        for number, (output, reference, correct) in enumerate(OUTPUTS)
    ]  # fmt: skip
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_score_under_other_rules(predictions: Path) -> None:
    found = look_again(predictions)
    correct = {way["way"]: way["correct"] for way in found["spread"]}
    assert correct == {
        "boxed": 1, "boxed, stated": 3, "boxed, stated, last number": 4, "last number": 5,
        "jiuzhang3": 5,
    }  # fmt: skip
    assert sum(found["how"].values()) == len(OUTPUTS)
    assert "disputed" not in found


def test_what_math_verify_disputes_is_kept_with_both_texts(predictions: Path) -> None:
    disputed = look_again(predictions, second_opinion=True)["disputed"]
    assert disputed
    for row in disputed:
        assert row["correct"] != row["math_verify"]
        assert OUTPUTS[int(row["id"])][1] == row["reference"]


def test_the_verb_prints_them(predictions: Path) -> None:
    result = CliRunner().invoke(app, ["grade", str(predictions), "--second-opinion"])
    assert result.exit_code == 0, result.output
    assert "4 of 7 right" in result.output
    assert "14.3% cut off" in result.output
    assert "read by last number" in result.output
    assert "disputed" in result.output
    result = CliRunner().invoke(app, ["grade", str(predictions), "--json"])
    assert json.loads(result.output)["truncation_rate"] == 1 / 7
