"""Source texts for the miniature loop: a few words each, of every kind. No real corpus is needed.

python examples/51_jiuzhang3_loop/texts.py --out runs/jiuzhang3_miniature_texts
"""

import argparse
import json
import random
from pathlib import Path

COUNTS = {"web": 100, "arxiv": 15, "book": 15, "qa": 30, "wiki": 8, "proof": 2, "tool": 20}
THINGS = ("pens", "cups", "eggs", "nuts", "hats", "keys")


def write_texts(folder: Path) -> None:
    """A file for each kind, and targets.jsonl and examples.jsonl."""
    rng = random.Random(20240523)
    pairs = [(a, b) for a in range(2, 40) for b in range(2, 40)]
    rng.shuffle(pairs)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, count in COUNTS.items():
        rows = []
        for number in range(count):
            text, more = (_fact(rng, pairs) for _ in range(2))
            if kind == "qa":
                parts = {"question": text, "answer": more}
            elif kind == "arxiv":
                parts = {"text": f"\\section{{A}}\n{text}\n\\section{{B}}\n{more}\n"}
            elif kind == "book":
                parts = {"text": f"## A\n{text}\n## B\n{more}\n"}
            else:
                parts = {"text": text}
            rows.append({"id": f"{kind}{number}", **parts})
        _write(folder / f"{kind}.jsonl", rows)
    targets = [{"problem": f"{a} plus {b}?", "solution": f"{a} + {b} = {a + b}\nThe answer is "
                f"\\boxed{{{a + b}}}."} for a, b in (pairs.pop() for _ in range(8))]  # fmt: skip
    _write(folder / "targets.jsonl", targets)
    _write(
        folder / "examples.jsonl",
        [{"problem": "3 plus 4?", "solution": "```python\nprint(3 + 4)\n```\n\\boxed{7}"}],
    )


def _fact(rng: random.Random, pairs: list[tuple[int, int]]) -> str:
    a, b = pairs.pop()
    return f"{a} and {b} {rng.choice(THINGS)}"


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    write_texts(parser.parse_args().out)
