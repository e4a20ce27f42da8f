"""Judge outputs, and score a predictions file again without any model (the verb `grade`).

Reads: predictions.jsonl, the benchmark's YAML, and protocol.json beside the predictions if it is
there. Writes nothing.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import extract_answer
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file
from megatron_math.base.log import log
from megatron_math.benchmarks.config import BenchmarkConfig
from megatron_math.benchmarks.load import load_config
from megatron_math.evaluate.predictions import read_predictions
from megatron_math.evaluate.scores import count, count_groups

PROTOCOL = "protocol.json"


def judge(
    benchmark: BenchmarkConfig, outputs: Sequence[str], references: Sequence[str], graders: int = 1
) -> list[tuple[str | None, bool]]:
    """(extracted answer, is it right) for every output."""
    answers = [extract_answer(text, benchmark.answer_rules).answer for text in outputs]
    verdicts = equal_many(zip(answers, references, strict=True), workers=graders)
    return [(a, verdict.correct) for a, verdict in zip(answers, verdicts, strict=True)]


def grade(path: Path | str, *, benchmark: str | None = None, graders: int = 1) -> dict[str, Any]:
    """Judge a saved predictions file anew; the result has the form of scores.json.

    benchmark: name or YAML path, when it is not one that comes with the program. Raises UserError
    for a file that holds no predictions, or those of several benchmarks.
    """
    path = Path(path)
    rows = read_predictions(path)
    names = sorted({row["benchmark"] for row in rows})
    if len(names) > 1:
        raise UserError(f"{path} mixes benchmarks ({', '.join(names)}); give one file for each")
    config = load_config(benchmark or names[0])
    judged = judge(
        config, [row["output"] for row in rows], [row["reference"] for row in rows], graders
    )
    changed = 0
    for row, (extracted, correct) in zip(rows, judged, strict=True):
        changed += row["correct"] != correct
        row |= {"extracted": extracted, "correct": correct}
    if changed:
        log.warning("%s: %d verdicts differ from those in the file", path, changed)
    return score(path, rows, config)


def score(path: Path, rows: Sequence[dict[str, Any]], benchmark: BenchmarkConfig) -> dict[str, Any]:
    """The content of scores.json for judged `rows` of the predictions file at `path`."""
    protocol = path.with_name(PROTOCOL)
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "protocol": read_json(protocol) if protocol.is_file() else None,
        **count(rows),
        "groups": count_groups(rows),
        "truncated": (truncated := sum(row["finish"] == "length" for row in rows)),
        "truncation_rate": truncated / len(rows),
        "no_answer": sum(row["extracted"] is None for row in rows),
        "grader": f"{', '.join(benchmark.answer_rules)}; ours 2, math-verify "
        f"{version('math-verify')} where ours cannot read",
        "predictions_sha256": sha256_file(path),
    }
