"""Judge outputs, and score a predictions file again without any model (the verb `grade`).

Reads: predictions.jsonl, the benchmark's YAML, and protocol.json beside the predictions if it is
there. Writes disputed.jsonl beside the predictions where a second opinion is asked for.
"""

from collections import Counter
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
from megatron_math.evaluate.predictions import read_predictions, samples_of, write_predictions
from megatron_math.evaluate.scores import count, count_groups
from megatron_math.evaluate.tool import count_runs

PROTOCOL, DISPUTED = "protocol.json", "disputed.jsonl"
OF_A_SAMPLE = ("output", "finish", "extracted", "correct")


def judge(
    rows: Sequence[dict[str, Any]],
    benchmark: BenchmarkConfig,
    protocol: dict[str, Any] | None = None,
    graders: int = 1,
) -> Counter[str]:
    """Set what was extracted and whether it is right, in all rows and their samples, in place.

    Of several samples the classes of equal answers are found, and one is picked, as `protocol`
    says; without one by majority. The letter of a likeliest option is taken as it is. Returns how
    many verdicts each rule has decided.
    """
    protocol = protocol or {}
    rules = _rules(protocol)
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
    return Counter(verdict.how for verdict in verdicts)


def _rules(protocol: dict[str, Any]) -> Rules:
    return PRESETS[protocol["grading"]] if protocol.get("grading", "ours") != "ours" else OURS


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


def write_disputed(
    predictions: Path,
    rows: Sequence[dict[str, Any]],
    protocol: dict[str, Any] | None = None,
    graders: int = 1,
) -> list[dict[str, Any]]:
    """Leave beside the predictions those of the judged rows about which math-verify thinks
    otherwise, with both opinions and the rule that decided ours."""
    pairs = [(row["extracted"], row["reference"]) for row in rows]
    opinions = second_opinions(pairs, graders)
    places = [n for n, row in enumerate(rows) if opinions[n] not in (None, row["correct"])]
    ours = equal_many([pairs[n] for n in places], workers=graders, rules=_rules(protocol or {}))
    keys = ("id", "extracted", "reference", "correct")
    disputed = [
        {key: rows[n][key] for key in keys} | {"how": verdict.how, "math_verify": opinions[n]}
        for n, verdict in zip(places, ours, strict=True)
    ]
    write_predictions(predictions.with_name(DISPUTED), disputed)
    return disputed


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
