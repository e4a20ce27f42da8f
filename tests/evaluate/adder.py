"""A tiny Llama that learns some sums by heart, the sums as a benchmark, and a road around both."""

import json
import re
from pathlib import Path
from typing import Any

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


def train(folder: Path, most_steps: int = 400) -> Path:
    """Until what is to be learned is known; returns the Hugging Face folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [
        (f"Question: {problem}\nSolution:", f" The answer is {answer}.")
        for problem, answer in problems()
    ]
    words = sorted(set(re.findall(r"\s|\w+|[^\w\s]", "".join(a + b for a, b in texts))))
    vocabulary = {"<s>": 0, "</s>": 1} | {word: 2 + i for i, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\w+|[^\w\s]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [
        (tokenizer(prompt)["input_ids"], [*tokenizer(answer)["input_ids"], 1])
        for prompt, answer in texts[:LEARNED]
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids_BT = torch.ones(len(rows), longest, dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, -100)
    for place, (prompt, answer) in enumerate(rows):
        ids_BT[place, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        labels_BT[place, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    known = False
    for _ in range(most_steps):
        output = model(ids_BT, labels=labels_BT)
        right_BT = output.logits[:, :-1].argmax(-1) == labels_BT[:, 1:]
        known = bool((right_BT | (labels_BT[:, 1:] < 0)).all())
        if known:
            break
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert known, "the model has not learnt its sums"
    model.save_pretrained(folder)
    return folder


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
