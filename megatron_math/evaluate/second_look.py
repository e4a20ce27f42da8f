"""What a score hangs on: the same predictions under other rules, and where math-verify disagrees.

Reads predictions.jsonl and the benchmark's YAML. Writes disputed.jsonl beside it where it is asked.
"""

from pathlib import Path
from typing import Any

from megatron_math.answers.spread import CHOICE_WAYS, WAYS, spread
from megatron_math.benchmarks.load import load_config
from megatron_math.evaluate.grade import judge, read_protocol, write_disputed
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
    path = Path(path)
    rows, protocol = read_predictions(path), read_protocol(path)
    config = load_config(benchmark or rows[0]["benchmark"])
    how = judge(rows, config, protocol, graders)
    outputs, references = [row["output"] for row in rows], [row["reference"] for row in rows]
    ways = CHOICE_WAYS if "choice" in config.answer_rules else WAYS
    found: dict[str, Any] = {
        "spread": [way.to_json() for way in spread(outputs, references, ways, graders)],
        "how": dict(how.most_common()),
    }
    if second_opinion:
        found["disputed"] = write_disputed(path, rows, protocol, graders)
    return found
