"""A tiny Llama that is trained to know a few answers by heart: a real model for a real server."""

import json
from pathlib import Path

from by_heart import learn

PROMPTS = {
    "expansion.ask": "E {{ problem }}",
    "diversification.ask": "D {{ problem }}",
    "retrospective.slip": "R {{ problem }}",
    "tutorship.judge": "T {{ problem }}",
    "solve.problem": "S {{ problem }}",
}
NUMBERS = ((3, 4, 2), (6, 5, 3), (8, 2, 4))


def seed_row(a: int, b: int, c: int) -> dict[str, str]:
    steps = [f"{a} + {b} = {a + b}", f"{a + b} * {c} = {(a + b) * c}"]
    return {
        "problem": f"({a} + {b}) * {c}?",
        "solution": "\n".join([*steps, f"The answer is {(a + b) * c}."]),
        "answer": str((a + b) * c),
    }


def answers(a: int, b: int, c: int) -> dict[str, str]:
    """What the model is to say to each prompt; the student errs in its second step."""
    total, result = a + b, (a + b) * c
    pairs = [
        f"Problem {n}: {a} + {b + n}?\nSolution {n}: {a} + {b + n} = {total + n}\n"
        f"The answer is {total + n}.\nCheck {n}: accept\nReason {n}: yes"
        for n in (1, 2)
    ]
    return {
        "E": f"Statement: {result}.\n" + "\n".join(pairs),
        "D": f"Response: accept\nSolution 1: {a} * {c} + {b} * {c} = {result}\nThe answer is "
        f"{result}.\nSolution 2: {c} * {total} = {result}\nThe answer is {result}.",
        "R": f"Place: 1\nSlip: times {c}",
        "T": f"Check: wrong\nStep: 2\nQuote: {total} * {c} = {result + 1}\nError: no\nCorrection:\n"
        f"{total} * {c} = {result}\nThe answer is {result}.",
        "S": f"{a} + {b} = {total}\n{total} * {c} = {result + 1}\nThe answer is {result + 1}.",
    }


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """The seeds, and a folder of prompts short enough to be learnt."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = folder / "seeds.jsonl"
    seeds.write_text("".join(json.dumps(seed_row(*numbers)) + "\n" for numbers in NUMBERS))
    prompts = folder / "prompts"
    prompts.mkdir()
    for name, text in PROMPTS.items():
        (prompts / f"{name}.en.md").write_text(text)
    return seeds, prompts


def train(folder: Path) -> Path:
    """Train until every answer is known; returns the Hugging Face folder."""
    texts = {
        f"{letter} {seed_row(*numbers)['problem']}": answer
        for numbers in NUMBERS
        for letter, answer in answers(*numbers).items()
    }
    return learn(
        folder, texts, lr=3e-3, most_steps=1000, loss=2e-3,
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip
