"""Gold answers of real sets, as solutions end and as sentences say them, are graded right."""

import json
from pathlib import Path

import pytest

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import extract_answer
from megatron_math.answers.spread import CHOICE_WAYS, WAYS, spread
from megatron_math.benchmarks.load import load_benchmark

# AQuA rationales that name no letter at all: faults of the data (its row numbers, from 0).
AQUA_WITHOUT_LETTER = {43, 50, 70, 87, 99, 103, 130, 171, 184, 186, 196}
SENTENCES = (
    "We compute it step by step. The answer is {answer}.",
    "So the final answer is: {answer}",
    "First 12, then 13. Therefore, the answer is **{answer}**",
    "Hence $\\boxed{{{answer}}}$.",
    "Final Answer: The final answer is ${answer}$. I hope it is correct.",
)


def graded(benchmark, texts):
    """(row, extracted, verdict) of everything that is not graded right."""
    rules = benchmark.config.answer_rules
    answers = [extract_answer(text, rules).answer for text in texts]
    references = [row.reference for row in benchmark.rows]
    verdicts = equal_many(zip(answers, references, strict=True))
    return [
        (number, answer, reference)
        for number, (answer, reference, verdict) in enumerate(
            zip(answers, references, verdicts, strict=True)
        )
        if not verdict.correct
    ]


def test_aqua_rationales_end_in_their_letter(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "eval/aqua.jsonl").open()]
    wrong = graded(load_benchmark("aqua", data=shared_data), [row["rationale"] for row in rows])
    assert {number for number, _, _ in wrong} == AQUA_WITHOUT_LETTER
    assert all(answer is None for _, answer, _ in wrong), "no letter, so none is made up"


@pytest.mark.parametrize(
    "name", ["svamp", "gaokao_cloze", "math500", "sat_math", "mmlu_stem_600", "aqua", "gsm8k"]
)
@pytest.mark.parametrize("sentence", SENTENCES)
def test_gold_answers_in_a_sentence(shared_data: Path, name: str, sentence: str) -> None:
    benchmark = load_benchmark(name, data=shared_data)
    answers = [row.reference for row in benchmark.rows]
    if "${answer}$" in sentence or "$\\boxed" in sentence:
        answers = [
            answer.replace("$", "") if answer.count("$") > 1 else answer for answer in answers
        ]
    assert graded(benchmark, [sentence.format(answer=answer) for answer in answers]) == []


def test_a_chinese_sentence(shared_data: Path) -> None:
    benchmark = load_benchmark("gaokao_cloze", data=shared_data)
    texts = [f"解：由题意得 $x=1$。答案是 {row.reference}。" for row in benchmark.rows]
    assert graded(benchmark, texts) == []


@pytest.mark.parametrize("name", ["gaokao_cloze", "sat_math", "aqua"])
def test_the_next_rows_answer_is_wrong_unless_it_is_the_same(shared_data: Path, name: str) -> None:
    benchmark = load_benchmark(name, data=shared_data)
    references = [row.reference for row in benchmark.rows]
    shifted = references[1:] + references[:1]
    pairs = list(zip(shifted, references, strict=True))
    accepted = [p for p, v in zip(pairs, equal_many(pairs), strict=True) if v.correct]
    assert [p for p in accepted if p[0].strip("$ ") != p[1].strip("$ ")] == []


def test_the_spread_over_rules_is_shown(shared_data: Path) -> None:
    """GSM8K's models wrote "A: 18": only the last number finds it; boxes find nothing."""
    references, texts = [], []
    rows = [json.loads(line) for line in (shared_data / "gsm8k/model_solutions.jsonl").open()]
    gold = [json.loads(line)["answer"] for line in (shared_data / "gsm8k/test.jsonl").open()]
    for row, answer in zip(rows[:300], gold, strict=False):
        references.append(answer.split("####")[1].strip())
        texts.append(row["175b_verification"]["solution"])
    found = {reading.way: reading for reading in spread(texts, references)}
    assert set(found) == set(WAYS)
    labels = sum(row["175b_verification"]["is_correct"] for row in rows[:300])
    assert found["boxed"].correct == 0
    assert found["last number"].correct == found["boxed, stated, last number"].correct == labels
    assert found["jiuzhang3"].to_json()["accuracy"] >= labels / 300


def test_the_spread_of_choices(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "eval/aqua.jsonl").open()]
    texts, references = [row["rationale"] for row in rows], [row["correct"] for row in rows]
    found = {reading.way: reading.correct for reading in spread(texts, references, CHOICE_WAYS)}
    assert found["boxed, choice, last letter"] == 254 - len(AQUA_WITHOUT_LETTER)
    assert found["boxed"] == 0 < found["choice"] < found["boxed, choice, last letter"]
