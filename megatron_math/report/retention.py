"""What was forgotten: losses and general sets before and after.

Reads 70_evaluate/retention.json and, for losses by source while training, 50_train.
"""

from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json
from megatron_math.report.paired import paired
from megatron_math.report.scores import WHO, verdicts_in


def read_retention(folder: Path) -> dict[str, Any] | None:
    """Texts with their losses, sets with both scores and their paired difference."""
    path = folder / "retention.json"
    if not path.is_file():
        return None
    facts = read_json(path)
    sets = []
    for row in facts["sets"]:
        sides = [verdicts_in(folder / who / row["benchmark"] / "predictions.jsonl") for who in WHO]
        score = {
            who: {"right": row["right"].get(who), "problems": row["problems"].get(who)}
            for who in WHO
        }
        sets.append({"benchmark": row["benchmark"], **score, "change": paired(*sides)})
    return {"max_tokens": facts["max_tokens"], "texts": facts["texts"], "sets": sets}
