"""Real attempts, right and wrong: GSM8K's 5,276 model solutions as the students of tutorship."""

import json
from collections import Counter

import pytest
from fault_server import FaultServer
from method_roads import Written, load, write_road

from megatron_math.synthesize import run as room
from megatron_math.synthesize.verdicts.symbolic import statements_hold

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.fixture(scope="module")
def rows(shared_data):
    text = (shared_data / "gsm8k" / "model_solutions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_real_attempts_are_judged_as_their_labels_say(rows, shared_data, tmp_path):
    right = {row["question"].strip(): row["ground_truth"] for row in rows}

    def teacher(prompt, seed, sample):
        """Corrects any attempt with the known solution; the wrong step is the first false one."""
        problem = prompt.split("Problem:\n")[1].split("\n\nAttempt of the student:\n")[0]
        steps = prompt.split("Attempt of the student:\n")[1].split("\n\nAnswer in plain")[0]
        steps = [step.partition("] ")[2] for step in steps.split("\n")]
        false = [n for n, step in enumerate(steps, start=1) if statements_hold(step) is False]
        number = false[0] if false else len(steps)
        solution, _, answer = right[problem].rpartition("\nA: ")
        return (
            f"Check: wrong\nStep: {number}\nQuote: {steps[number - 1]}\nError: It does not follow."
            f"\nCorrection:\n{solution}\nThe answer is \\boxed{{{answer}}}."
        )

    seeds = shared_data / "gsm8k" / "model_solutions.jsonl"
    with FaultServer(reply=teacher) as server:
        road = write_road(
            tmp_path, "tutorship", seeds, server.url, student=None, judged_correct=0.0,
            seeds={"path": str(seeds), "problem": "question", "solution": "ground_truth",
                   "attempts": [f"{name}.solution" for name in MODELS], "remove": ["<<[^<>]*>>"]},
        )  # fmt: skip
        written = Written(room.run(load(road)).folder)
        num_wrong = sum(not row[name]["is_correct"] for row in rows for name in MODELS)
        assert num_wrong == 3275
        assert len(server.calls) <= num_wrong == written.stats["cost"]["teacher"]["requests"]

    said = Counter()
    for drop in written.drops:
        about = drop["meta"]
        is_right = drop["reason"] == "right attempt outside the share"
        assert is_right or about["attempt_right"] is False
        said[drop.get("seed_id", about.get("seed_id")), about["attempt_by"], is_right] += 1
    for record in written.records:
        assert record.meta["attempt_right"] is False
        said[record.meta["seed_id"], record.meta["attempt_by"], False] += 1
    labels = Counter(
        (f"model_solutions.jsonl:{line}", f"{name}.solution", row[name]["is_correct"])
        for line, row in enumerate(rows, start=1)
        for name in MODELS
    )
    assert said == labels
    assert sum(labels.values()) == 5276
    # What is not accepted: corrections with a false statement of GSM8K's own, and duplicates.
    assert len(written.records) >= 0.97 * num_wrong
    for record in written.records:
        assert record.solution.count("\n\nCheck: wrong\nStep ") == 1
