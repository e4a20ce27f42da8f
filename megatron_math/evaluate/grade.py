"""Judge outputs, and score a predictions file again without any model (the verb `grade`).

Reads: predictions.jsonl, the benchmark's YAML, and protocol.json beside the predictions if it is
there. Writes nothing.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_math.answers.equal import equal_many, second_opinions
from megatron_math.answers.extract import extract_answer
from megatron_math.answers.rules import OURS, PRESETS, Rules
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file
from megatron_math.base.log import log
from megatron_math.base.statistics import estimate
from megatron_math.benchmarks.config import BenchmarkConfig
from megatron_math.benchmarks.load import load_config
from megatron_math.evaluate.pick import classes, of_samples, pick
from megatron_math.evaluate.predictions import read_predictions, samples_of
from megatron_math.evaluate.scores import count, count_groups
from megatron_math.evaluate.tool import count_runs

PROTOCOL = "protocol.json"
OF_A_SAMPLE = ("output", "finish", "extracted", "correct")


def judge(
    rows: Sequence[dict[str, Any]],
    benchmark: BenchmarkConfig,
    protocol: dict[str, Any] | None = None,
    graders: int = 1,
) -> None:
    """Set what was extracted and whether it is right, in all rows and their samples, in place.

    Of several samples the classes of equal answers are found, and one is picked, as `protocol`
    says; without one by majority. The letter of a likeliest option is taken as it is.
    """
    protocol = protocol or {}
    rules = PRESETS[protocol["grading"]] if protocol.get("grading", "ours") != "ours" else OURS
    finders = protocol.get("answer_rules") or benchmark.answer_rules
    samples = [(row, sample) for row in rows for sample in samples_of(row)]
    for _, sample in samples:
        is_letter = "likelihoods" in sample
        found = None if is_letter else extract_answer(sample["output"], finders).answer
        sample["extracted"] = sample["letter"] if is_letter else found
    pairs = [(sample["extracted"], row["reference"]) for row, sample in samples]
    verdicts = equal_many(pairs, workers=graders, rules=rules)
    for (_, sample), verdict in zip(samples, verdicts, strict=True):
        sample["correct"] = verdict.correct
    _pick([row for row in rows if "samples" in row], protocol, graders, rules)


def _pick(
    rows: Sequence[dict[str, Any]], protocol: dict[str, Any], graders: int, rules: Rules
) -> None:
    found = classes(
        [[sample["extracted"] for sample in row["samples"]] for row in rows],
        workers=graders,
        rules=rules,
    )
    for row, numbers in zip(rows, found, strict=True):
        for sample, number in zip(row["samples"], numbers, strict=True):
            sample["class"] = number
        row["picked"] = pick(row["samples"], protocol.get("pick") or "majority")
        row |= {key: row["samples"][row["picked"]][key] for key in OF_A_SAMPLE}


def find_disputed(rows: Sequence[dict[str, Any]], graders: int = 1) -> list[dict[str, Any]]:
    """Of judged rows those about which math-verify thinks otherwise, with both opinions."""
    pairs = [(row["extracted"], row["reference"]) for row in rows]
    keys = ("id", "extracted", "reference", "correct")
    return [
        {key: row[key] for key in keys} | {"math_verify": theirs}
        for row, theirs in zip(rows, second_opinions(pairs, graders), strict=True)
        if theirs is not None and theirs != row["correct"]
    ]


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
    before = [row["correct"] for row in rows]
    judge(rows, config, read_protocol(path), graders)
    changed = sum(row["correct"] != old for row, old in zip(rows, before, strict=True))
    if changed:
        log.warning("%s: %d verdicts differ from those in the file", path, changed)
    return score(path, rows, config)


def read_protocol(path: Path) -> dict[str, Any] | None:
    """How the predictions at `path` were made; None where nothing beside them says so."""
    protocol = path.with_name(PROTOCOL)
    return read_json(protocol) if protocol.is_file() else None


def score(path: Path, rows: Sequence[dict[str, Any]], benchmark: BenchmarkConfig) -> dict[str, Any]:
    """The content of scores.json for judged `rows` of the predictions file at `path`."""
    protocol = read_protocol(path)
    finders = (protocol or {}).get("answer_rules") or benchmark.answer_rules
    samples = [sample for row in rows for sample in samples_of(row)]
    right = [[float(row["correct"]) for row in rows]]
    truncated = sum(row["finish"] == "length" for row in rows)
    found: dict[str, Any] = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "protocol": protocol,
        **count(rows),
        "bootstrap95": list(estimate(right).bootstrap),
        "groups": count_groups(rows),
        "truncated": truncated,
        "truncation_rate": truncated / len(rows),
        "failed": sum(row["finish"] == "failed" for row in rows),
        "no_answer": sum(row["extracted"] is None for row in rows),
        "grader": f"{', '.join(finders)}; ours 2, math-verify {version('math-verify')} where ours "
        "cannot read" + _loosely(protocol),
        "predictions_sha256": sha256_file(path),
    }
    if any("samples" in row for row in rows):
        found["samples"] = of_samples([samples_of(row) for row in rows])
    if all("runs" in sample for sample in samples):
        found["tool"] = count_runs(samples)
    if all("likelihoods" in sample for sample in samples):
        found["likelihood"] = _by_likelihood(rows)
    return found


def _loosely(protocol: dict[str, Any] | None) -> str:
    name = (protocol or {}).get("grading", "ours")
    return "" if name == "ours" else f"; compared by the rules {name}"


def _by_likelihood(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of options chosen by their whole log-likelihood, and by that of a byte."""
    return {
        name: count([{"correct": row[key] == row["reference"]} for row in rows])
        for name, key in (("sum", "letter"), ("of a byte", "letter_by_byte"))
    }
