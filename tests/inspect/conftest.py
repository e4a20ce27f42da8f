"""A small road walked by the real rooms up to its plan, for looking into."""

import json
from pathlib import Path

import pytest

from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run as blend
from megatron_math.index.run import run as index

ROAD = """
name: small
index:
  tokenizer: {tokenizer}
  workers: 1
  sources:
    general: {{path: {folder}/general.jsonl}}
    problems: {{path: {folder}/problems.jsonl}}
blend:
  sequence_length: 48
  tokens: 2000
  mix:
    general: {{share: 1, source: general}}
    problems: {{share: 1, source: problems, pack: whole, loss: solution}}
train: {{lr: 1.0e-3, global_batch_size: 6}}
"""


def problem(number: int) -> dict[str, str]:
    solution = f"{number} + 4 = {number + 4}. The answer is {number + 4}."
    return {"id": f"p-{number}", "problem": f"What is {number} + 4?", "solution": solution}


@pytest.fixture
def road(tmp_path: Path, tokenizer_files: dict[str, Path]) -> Road:
    texts = [{"id": f"g-{n}", "text": f"Text {n} is about the number {n}." * 3} for n in range(60)]
    for name, rows in (("general", texts), ("problems", [problem(n) for n in range(60)])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    yaml = tmp_path / "road.yaml"
    kind = tokenizer_files["HuggingFaceTokenizer"].parent
    yaml.write_text(ROAD.format(tokenizer=kind, folder=tmp_path))
    road = Road.load(yaml, [], tmp_path / "runs")
    index(road)
    blend(road)
    assert read_json(road.folder("40_blend") / "plan.json")
    return road
