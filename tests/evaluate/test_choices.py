"""Choices by log-likelihood: the letter or the option, whole and by the byte, against torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.benchmarks.load import load_benchmark
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate.grade import grade
from megatron_math.evaluate.run import run

ROWS = [
    {"question": "1 + 1", "choices": ["3", "two", "22", "0"], "answer": 1},
    {"question": "5 - 5", "choices": ["1", "5", "10", "none of it"], "answer": 3},
    {"question": "2 * 4", "choices": ["8", "6", "sixteen", "2"], "answer": 0},
]
BENCHMARK = """
name: choices
version: 1
rows: rows.jsonl
problem: {fields: [question]}
options: {field: choices, lettered: true}
reference: {field: answer, lettered: true}
prompt: "{problem}"
choice: "{problem}\\nAnswer:"
example: "{problem} {solution}\\n"
examples: [{problem: "0?\\nA) 1\\nB) 0", solution: The answer is B.}]
max_new_tokens: 4
answer_rules: [choice]
"""


def asked(road: Road, way: str, **more: Any) -> Road:
    folder = road.yaml_path.parent
    (folder / "choices.yaml").write_text(BENCHMARK)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    choice = {"name": str(folder / "choices.yaml"), "rows": str(folder / "rows.jsonl"), "way": way}
    section = {"benchmarks": [choice | more], "who": ["after"]}
    return replace(road, raw=road.raw | {"evaluate": section})


def totals(hf: Path, prompt: str, options: list[str]) -> list[float]:
    """Log-likelihood of each option behind the prompt; the tokenizer makes a token of a byte."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(hf).eval()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    found = []
    for option in options:
        ids = torch.tensor(tokenizer(prompt + option)["input_ids"])
        with torch.no_grad():
            logprobs_SV = model(ids[None]).logits[0].log_softmax(-1)
        places = range(len(prompt.encode()), len(ids))
        found.append(sum(float(logprobs_SV[place - 1, ids[place]]) for place in places))
    return found


@pytest.mark.parametrize("way", ["letters", "options"])
def test_the_likeliest_is_chosen(road: Road, tiny_hf: Path, way: str) -> None:
    run(asked(road, way), open_engine=lambda _: HuggingFaceEngine(tiny_hf))
    folder = road.folder("70_evaluate") / "after" / "choices"
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right, right_by_byte = 0, 0
    for row, raw in zip(rows, ROWS, strict=True):
        shown = "\n".join(f"{x}) {c}" for x, c in zip("ABCD", raw["choices"], strict=True))
        assert row["prompt"] == f"{raw['question']}\n{shown}\nAnswer:"
        options = [f" {o}" for o in ("ABCD" if way == "letters" else raw["choices"])]
        expected = totals(tiny_hf, row["prompt"], options)
        assert row["likelihoods"] == pytest.approx(expected, abs=1e-4)
        by_byte = [e / len(o) for e, o in zip(expected, options, strict=True)]
        assert row["letter"] == row["output"] == "ABCD"[expected.index(max(expected))]
        assert row["letter_by_byte"] == "ABCD"[by_byte.index(max(by_byte))]
        right += row["letter"] == row["reference"] == "ABCD"[raw["answer"]]
        right_by_byte += row["letter_by_byte"] == row["reference"]
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["correct"] == scores["likelihood"]["sum"]["correct"] == right
    assert scores["likelihood"]["of a byte"]["correct"] == right_by_byte
    assert grade(path, benchmark=str(road.yaml_path.parent / "choices.yaml")) == scores


def test_examples_show_the_letter_alone(road: Road, tiny_hf: Path) -> None:
    run(asked(road, "letters", shots=1), open_engine=lambda _: HuggingFaceEngine(tiny_hf))
    path = road.folder("70_evaluate") / "after" / "choices" / "predictions.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    assert first["prompt"].startswith("0?\nA) 1\nB) 0\nAnswer: B\n\n1 + 1\nA) 3")
    with pytest.raises(UserError, match="with 0 shots"):
        run(asked(road, "options", shots=1), open_engine=lambda _: HuggingFaceEngine(tiny_hf))


def test_who_cannot_say_it_is_not_asked(road: Road) -> None:
    with pytest.raises(UserError, match="does not say how likely"):
        run(asked(road, "letters"), open_engine=lambda _: ScriptedEngine(lambda _: "A"))
    sums = replace(road, raw=road.raw | {"evaluate": {
        "benchmarks": [road.raw["evaluate"]["benchmarks"][0] | {"way": "letters"}],
        "who": ["after"]}})  # fmt: skip
    with pytest.raises(UserError, match="no options that can be told apart"):
        run(sums, open_engine=lambda _: ScriptedEngine(lambda _: "A"))


def test_options_of_real_sets_are_told_apart(shared_data: Path) -> None:
    """Row 29 of AQuA has its letters twice, a fault of the data."""
    for name, least in (("aqua", 5), ("sat_math", 4), ("mmlu_stem_600", 4)):
        rows = load_benchmark(name, data=shared_data).rows
        assert all(len(row.choices) == least for row in rows), name
        lettered = [row.id for row in rows if row.choices[0].startswith(("A)", "(A)"))]
        assert lettered == (["29"] if name == "aqua" else [])
