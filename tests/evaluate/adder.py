"""A tiny Llama that learns some sums by heart, the sums as a benchmark, and a road around both."""

import json
from pathlib import Path
from typing import Any

from by_heart import learn

from megatron_math.base.road import Road

NUM_ROWS = 36
LEARNED = 28  # the first rows; the others are guessed
BENCHMARK = """
name: additions
version: 1
rows: rows.jsonl
problem: {fields: [problem]}
reference: {field: answer}
prompt: "Question: {problem}\\nSolution:"
example: "Question: {problem}\\nSolution:{solution}\\n\\n"
max_new_tokens: 12
answer_rules: [stated, last number]
"""


def problems() -> list[tuple[str, str]]:
    """Of different lengths, so that batches are padded."""
    found = []
    for i in range(NUM_ROWS):
        a, b, c = i * 7 % 23, i * 5 % 19, i * 3 % 11
        words = [f"{a} + {b}", f"{a} + {b} + {c}", f"{a} plus {b} and {c} more"][i % 3]
        found.append((f"What is {words}?", str(a + b + (c if i % 3 else 0))))
    return found


def write_road(folder: Path, hf: Path, **evaluate: Any) -> Road:
    """The road of a model folder with its rows; `evaluate` are further keys of the section."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"problem": problem, "answer": answer} for problem, answer in problems()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "additions.yaml").write_text(BENCHMARK)
    choice = {"name": str(folder / "additions.yaml"), "rows": str(folder / "rows.jsonl")}
    section = {"benchmarks": [choice], "who": ["before"]} | evaluate
    road = {"name": "adder", "base": {"hf": str(hf)}, "evaluate": section}
    (folder / "road.yaml").write_text(json.dumps(road))
    return Road.load(folder / "road.yaml", runs=folder / "runs")


def train(folder: Path) -> Path:
    """Until what is to be learned is known; returns the Hugging Face folder."""
    texts = [
        (f"Question: {problem}\nSolution:", f" The answer is {answer}.")
        for problem, answer in problems()
    ]
    return learn(
        folder, dict(texts[:LEARNED]), [a + b for a, b in texts[LEARNED:]], lr=5e-3, most_steps=400,
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip


def closest_calls(hf: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """By row, the smallest gap between the best two logits that its answer ever met."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    found = {}
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["output"])["input_ids"]
        with torch.no_grad():
            logits_SV = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]
        best_S2 = logits_SV.topk(2).values
        found[row["id"]] = float((best_S2[:, 0] - best_S2[:, 1]).min())
    return found
