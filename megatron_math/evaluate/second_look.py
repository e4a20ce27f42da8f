"""What a score hangs on: the same predictions under other rules, and where math-verify disagrees.

Reads predictions.jsonl and the benchmark's YAML. Writes disputed.jsonl beside it where it is asked.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import extract_answer
from megatron_math.answers.spread import CHOICE_WAYS, WAYS, spread
from megatron_math.base.files import atomic_open
from megatron_math.benchmarks.load import load_config
from megatron_math.evaluate.predictions import read_predictions


def look_again(
    path: Path | str,
    *,
    benchmark: str | None = None,
    graders: int = 1,
    second_opinion: bool = False,
) -> dict[str, Any]:
    """`spread`: the score under other rules. `how`: verdicts by the rule that decided.

    With second_opinion `disputed`: the rows of which math-verify thinks otherwise.
    """
    rows = read_predictions(Path(path))
    config = load_config(benchmark or rows[0]["benchmark"])
    outputs, references = [row["output"] for row in rows], [row["reference"] for row in rows]
    answers = [extract_answer(text, config.answer_rules).answer for text in outputs]
    pairs = list(zip(answers, references, strict=True))
    verdicts = equal_many(pairs, workers=graders, second_opinion=second_opinion)
    ways = CHOICE_WAYS if "choice" in config.answer_rules else WAYS
    found: dict[str, Any] = {
        "spread": [way.to_json() for way in spread(outputs, references, ways, graders)],
        "how": dict(Counter(verdict.how for verdict in verdicts).most_common()),
    }
    if second_opinion:
        found["disputed"] = [
            {
                "id": row["id"],
                "extracted": answer,
                "reference": row["reference"],
                "correct": verdict.correct,
                "how": verdict.how,
                "math_verify": verdict.second,
            }
            for row, answer, verdict in zip(rows, answers, verdicts, strict=True)
            if verdict.is_disputed
        ]
    return found


def write_disputed(predictions: Path, disputed: Iterable[dict[str, Any]]) -> Path:
    """Write the disputed rows beside the predictions, where `report` looks for them."""
    path = predictions.with_name("disputed.jsonl")
    with atomic_open(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in disputed)
    return path
