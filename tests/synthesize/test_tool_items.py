"""Items with code: what is read, what is run and kept, and that what is run stays inside."""

import json
from functools import partial

import pytest
from fault_server import FaultServer
from test_excerpts import run

from megatron_math.sandbox.python import PythonSandbox
from megatron_math.synthesize import tool_items
from megatron_math.synthesize.solved_examples import without_docstrings
from megatron_math.synthesize.tags import Unusable
from megatron_math.synthesize.tool_items import answer_is_printed, read_tool_solution

GOOD = "```python\nprint(6 * 7)\n```\nThe answer is \\boxed{42}."
TEXT = "A farmer has six rows of seven trees each, and waters every one of them twice a day."


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tool(reply) -> what a road with one tool seed wrote, and the prompt.

    Each road has a sandbox of its own, and no code here imports what it would load before."""
    monkeypatch.setattr(tool_items, "PythonSandbox", partial(PythonSandbox, preload=()))
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"id": "s", "text": TEXT}) + "\n")
    examples = [
        {"problem": "No box", "solution": "```python\nprint(1)\n```\n1"},
        {"problem": "No code", "solution": "\\boxed{1}"},
        {"problem": "Two?", "solution": '```python\ndef f():\n    """Doc."""\n    return 2\n\n'
         'print(f())\n```\n\\boxed{2}'},
    ]  # fmt: skip
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in examples))
    sources = {"tool": {"kind": "tool", "path": str(tmp_path / "seeds.jsonl")}}

    def make(solution, name="road", **more):
        text = f"Problem: How many trees?\nSolution: {solution}"
        with FaultServer(reply=lambda prompt, seed, sample: text) as server:
            more = {"examples": {"path": str(path)}} | more
            written = run(tmp_path, server.url, sources, name, **more)
            return written, server.calls[0].prompt

    return make


def test_code_is_run_and_its_output_stands_behind_it(tool):
    written, prompt = tool("Count.\n" + GOOD)
    [record] = written.records
    assert record.solution == (
        "Count.\n```python\nprint(6 * 7)\n```\n```output\n42\n```\nThe answer is \\boxed{42}."
    )
    assert record.answer == "42"
    assert record.meta["outcome"] == "ok"
    assert record.meta["verdicts"]["runs"] is record.meta["verdicts"]["output"] is True
    assert "printed" not in record.meta
    assert TEXT in prompt
    assert "Two?" in prompt
    assert "Doc." not in prompt
    [pair] = written.rows("distilled.jsonl")
    assert pair["problem"] == prompt
    assert pair["solution"].endswith(GOOD)


def test_what_a_model_says_its_code_prints_is_left_out(tool):
    written, _ = tool(GOOD.replace("\nThe", "\n```output\n43\n```\nThe"))
    assert "43" not in written.records[0].solution


def test_an_answer_that_is_not_printed_is_a_verdict_for_the_rule(tool):
    wrong = GOOD.replace("42", "43")
    written, _ = tool(wrong)
    assert written.records[0].meta["verdicts"]["output"] is False
    written, _ = tool(wrong, "strict", accept={"all": ["runs", "output"]})
    assert written.stats["rejects"] == {"not accepted: output": 1}


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print(1 / 0)", "error"),
        ("while True: pass", "timeout"),
        ("import socket\nsocket.socket()", "forbidden"),
        ("print(open('/etc/shadow').read())", "error"),
        ("x = [0] * 10**9", "memory"),
        ("print('x' * 10**6)", "output"),
        ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ],
)
def test_code_that_fails_makes_no_record(tool, code, outcome):
    written, _ = tool(GOOD.replace("print(6 * 7)", code), sandbox={"seconds": 1})
    assert written.stats["rejects"] == {"not accepted: runs": 1}
    assert written.drops[0]["meta"]["outcome"] == outcome


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("The answer is \\boxed{42}.", "no Python code"),
        ("```python\n\n```\n\\boxed{42}", "no Python code"),
        (GOOD + "\n" + GOOD, "more than one block of code"),
        ("```\n1\n```\n" + GOOD, "more than one block of code"),
        (GOOD.partition("\nThe")[0], "nothing behind the code"),
        (GOOD.replace("\\boxed{42}", "clear").replace("is", "seems"), "no final answer"),
        (GOOD.replace("print(6 * 7)", "6 * 7"), "the code prints nothing"),
        (GOOD.replace("6 * 7", "'x' * 3000"), "the code prints too much"),
        (GOOD.replace("6 * 7", "'`' * 3"), "the code prints what breaks its fence"),
    ],
)
def test_solutions_that_make_no_record(tool, solution, reason):
    written, _ = tool(solution)
    assert written.stats["rejects"] == {reason: 1}
    assert written.drops[0]["meta"]["stage"] == "tool"


@pytest.mark.parametrize(
    ("output", "answer", "verdict"),
    [
        ("42", "42", True),
        ("x = 1\nThe result: 42.0", "42", True),
        ("a\nabout 42.", "42", True),
        ("1/2", "0.5", True),
        ("42\n43", "42", False),
        ("42", None, None),
    ],
)
def test_answer_is_printed(output, answer, verdict):
    assert answer_is_printed(output, answer) is verdict


def test_docstrings_go_and_other_texts_stay():
    code = '''```python
"""Top."""
x = """kept"""
def f():
    r"""Two
    lines."""
    return 1
```'''
    bare = '```python\nx = """kept"""\ndef f():\n    return 1\n```'
    assert without_docstrings(code) == bare


def test_the_released_tool_items_can_be_read(shared_data):
    """All 1,000 of JiuZhang3.0's sample have a block of code and its output; here they are read."""
    path = shared_data / "jiuzhang3" / "tool_pretrain_data_sampled.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    read = unread = 0
    for row in rows:
        try:
            solution = read_tool_solution(row["output"])
        except Unusable:
            unread += 1
            continue
        read += 1
        claimed = row["output"].split("```output\n")[1].split("\n```")[0]
        assert solution.with_output(claimed).split() == row["output"].split()
    assert (read, unread) == (997, 3)
