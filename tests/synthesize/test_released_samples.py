"""The samples that JiuZhang3.0 released, and GSM8K: they load, and look as is known of them."""

import json

import pytest

from megatron_math.base.records import read_records
from megatron_math.index.config import SourceConfig

SAMPLES = {"cot_pretrain": 2393, "tool_pretrain": 1366, "finetune": 763}
HEADS = {
    "cot_pretrain": {"## Solution": 1000},
    "tool_pretrain": {"## Code Solution": 1000},
    "finetune": {"## Code Solution": 558, "## Step-by-Step Solution": 253, "## Solution": 189},
}
BOXED = {"cot_pretrain": 0.24, "tool_pretrain": 0.999, "finetune": 0.779}


@pytest.fixture(params=SAMPLES)
def sample(request, shared_data):
    """(name, its rows, its records)."""
    path = shared_data / "jiuzhang3" / f"{request.param}_data_sampled.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return request.param, rows, list(read_records(path))


def test_lengths_tails_and_boxes(sample):
    name, rows, records = sample
    assert len(rows) == len(records) == 1000
    assert all(row.keys() == {"input", "output"} for row in rows)
    for row, record in zip(rows, records, strict=True):
        assert (record.problem, record.solution) == (row["input"], row["output"])
    mean = sum(len(r.problem) + len(r.solution) for r in records) / len(records)
    assert round(mean) == SAMPLES[name]
    heads = dict.fromkeys(HEADS[name], 0)
    for record in records:
        assert record.problem.startswith("## Question\n")
        heads[record.problem.rstrip().rpartition("\n")[2]] += 1
    assert heads == HEADS[name]
    boxed = sum("\\boxed" in record.solution for record in records) / len(records)
    assert round(boxed, 3 if name != "cot_pretrain" else 2) == BOXED[name]


def test_tool_items_have_code_and_its_output(shared_data):
    path = shared_data / "jiuzhang3" / "tool_pretrain_data_sampled.jsonl"
    solutions = [record.solution for record in read_records(path)]
    assert sum("```output" in solution for solution in solutions) == 1000
    assert sum(solution.count("```python") == 1 for solution in solutions) == 997


def test_they_are_trained_on_as_they_are():
    template = SourceConfig(path="x", template="{problem}{solution}").template
    assert template.format(problem="## Question\n", solution="1") == "## Question\n1"


def test_gsm8k_loads(shared_data):
    rows = (shared_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 7473
    assert all("#### " in json.loads(row)["answer"] for row in rows)
