"""A road with finished stages, a benchmark of sums, and an engine that can do sums."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_math.base.road import Road
from megatron_math.base.stage import Stage

_spec = importlib.util.spec_from_file_location(
    "engine_fixtures", Path(__file__).parents[1] / "engine" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_engine_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_engine_fixtures)
tiny_hf = _engine_fixtures.tiny_hf

NUM_ROWS = 23
BENCHMARK = """
name: sums
version: 3
rows: sums.jsonl
problem: {fields: [problem]}
reference: {field: answer}
id: id
groups: {level: [meta.level], "level, operands_seen": [meta.level, meta.operands_seen]}
prompt: "Question: {problem}\\nSolution:"
example: "Question: {problem}\\nSolution: {solution}\\n\\n"
examples: [{problem: "What is 1 + 1?", solution: The answer is 2.}]
stop: ["\\nQuestion:"]
max_new_tokens: 8
answer_rules: [stated, last number]
"""
ROAD = """
name: study/cpt
base: {preset: tiny}
evaluate:
  benchmarks: [{name: BENCHMARK, rows: ROWS}]
  batch_size: 2
"""


@pytest.fixture
def add_up() -> Callable[[str], str]:
    """Right up to 30, above it one off, above 32 lost in thought."""

    def answer(prompt: str) -> str:
        a, b = map(int, re.findall(r"(\d+) \+ (\d+)", prompt)[-1])
        if a + b > 32:
            return "let me think " * 10
        return f" The answer is {a + b + (a + b > 30)}.\nQuestion: and so on"

    return answer


@pytest.fixture
def finish(tmp_path: Path) -> Callable[[str, str], Path]:
    """Make a finished stage of the road with one file in it."""

    def make(stage: str, file: str, content: str = "") -> Path:
        made = Stage(tmp_path / "runs" / "study" / "cpt" / stage, config={}, inputs={})
        made.begin()
        path = made.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        made.finish(stats={}, outputs=[path])
        return path

    return make


@pytest.fixture
def road(tmp_path: Path, finish: Callable[[str, str], Path]) -> Road:
    """Both models are there; 23 rows of three levels; blocks are 4 rows long."""
    rows = [
        {
            "id": f"sum-{i}",
            "problem": f"What is {i} + {2 * i % 7 + 10}?",
            "answer": str(i + 2 * i % 7 + 10),
            "meta": {"level": i % 3 + 1, "operands_seen": i % 2 == 0},
        }
        for i in range(NUM_ROWS)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(BENCHMARK)
    text = ROAD.replace("BENCHMARK", str(tmp_path / "sums.yaml"))
    (tmp_path / "road.yaml").write_text(text.replace("ROWS", str(tmp_path / "sums.jsonl")))
    finish("00_base", "hf/config.json")
    finish("60_export", "hf/config.json")
    return Road.load(tmp_path / "road.yaml", runs=tmp_path / "runs")
