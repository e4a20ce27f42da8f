"""Doors to and from lm-evaluation-harness (`lm_eval`), which is not needed to be installed here.

`samples`: our predictions.jsonl in the format that it logs samples in. `task`: a benchmark of ours
as a task of its own, asked with our very prompts. `command`: how it scores a model of ours.
"""

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, read_json, write_json, write_text
from megatron_math.benchmarks.load import load_benchmark
from megatron_math.evaluate.grade import PROTOCOL
from megatron_math.evaluate.predictions import read_predictions
from megatron_math.evaluate.scores import count

FILTER = "megatron-math"
"""Whose verdict `exact_match` is: the answer was found and compared by our rules."""
NO_ANSWER = "[invalid]"  # the harness's own word for it


def write_samples(predictions: Path, folder: Path) -> tuple[Path, Path]:
    """Write samples_<benchmark>_<time>.jsonl and results_<time>.json; returns their paths.

    The time is that of the predictions file, so that the same predictions give the same files.
    """
    rows = read_predictions(predictions)
    protocol_path = predictions.with_name(PROTOCOL)
    protocol = read_json(protocol_path) if protocol_path.is_file() else {}
    asked = {
        "until": protocol.get("stop", []),
        "max_gen_toks": protocol.get("max_new_tokens"),
        "do_sample": protocol.get("decoding", "greedy") != "greedy",
    }
    name = rows[0]["benchmark"]
    seconds = predictions.stat().st_mtime
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(seconds)) + ".000000"
    samples, results = folder / f"samples_{name}_{stamp}.jsonl", folder / f"results_{stamp}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(samples) as file:
        for number, row in enumerate(rows):
            file.write(json.dumps(_sample(number, row, asked), ensure_ascii=False) + "\n")
    write_json(results, _results(name, rows, protocol))
    return samples, results


def _sample(number: int, row: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    doc = {"id": row["id"], "prompt": row["prompt"], "reference": row["reference"], **row["meta"]}
    outputs = [sample["output"] for sample in row.get("samples") or [row]]
    extracted = row["extracted"]
    return {
        "doc_id": number,
        "doc": doc,
        "target": row["reference"],
        "arguments": {"gen_args_0": {"arg_0": row["prompt"], "arg_1": asked}},
        "resps": [outputs],
        "filtered_resps": [NO_ANSWER if extracted is None else extracted],
        "filter": FILTER,
        "metrics": ["exact_match"],
        "doc_hash": _digest(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _digest(row["prompt"]),
        "target_hash": _digest(row["reference"]),
        "exact_match": float(row["correct"]),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _results(name: str, rows: Sequence[dict[str, Any]], protocol: dict[str, Any]) -> dict[str, Any]:
    counted = count(rows)
    n, share = counted["n"], counted["accuracy"]
    error = (share * (1 - share) / (n - 1)) ** 0.5 if n > 1 else "N/A"
    return {
        "results": {
            name: {
                "alias": name,
                f"exact_match,{FILTER}": share,
                f"exact_match_stderr,{FILTER}": error,
            }
        },
        "group_subtasks": {name: []},
        "configs": {name: {"task": name, "metadata": {"version": protocol.get("version")}}},
        "versions": {name: protocol.get("version")},
        "n-shot": {name: protocol.get("shots", 0)},
        "higher_is_better": {name: {"exact_match": True}},
        "n-samples": {name: {"original": protocol.get("rows", n), "effective": n}},
    }


def write_task(
    benchmark: str,
    folder: Path,
    *,
    rows: Path | None = None,
    data: Path | None = None,
    shots: int = 0,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> Path:
    """Write a benchmark as a task for `lm_eval --include_path FOLDER`; returns its YAML's path.

    It has our prompts, stop strings and lengths. Its own score takes the last number for the
    answer; for ours grade what it logs. Raises UserError for a benchmark without answers.
    """
    loaded = load_benchmark(benchmark, rows, data)
    config = loaded.config
    if config.reference is None:
        raise UserError(f"{config.name} has statements without answers; it cannot be scored")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"megatron_math_{config.name}"
    documents = folder / f"{name}.jsonl"
    with atomic_open(documents) as file:
        for row in loaded.rows[:limit]:
            doc = {"id": row.id, "prompt": loaded.prompt(row, shots), "reference": row.reference}
            file.write(json.dumps(doc, ensure_ascii=False) + "\n")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(documents.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reference}}",
        "target_delimiter": "",
        "generation_kwargs": {
            "until": list(config.stop),
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": max_new_tokens or config.max_new_tokens,
        },
        "filter_list": [
            {
                "name": "last-number",
                "filter": [
                    {"function": "regex", "regex_pattern": r"(-?[\d,]*\.?\d+)", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "regexes_to_ignore": [",", r"\$"],
            }
        ],
        "metadata": {"version": config.version},
    }
    path = folder / f"{name}.yaml"
    write_text(path, yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=96))
    return path


def command(
    model: Path,
    tasks: Sequence[str],
    out: Path,
    *,
    include: Path | None = None,
    dtype: str = "float32",
    batch_size: int = 16,
) -> list[str]:
    """The words of an `lm_eval` command that scores a model of ours.

    model: a run with an export, its 60_export, or a Hugging Face folder. Raises UserError for
    anything else.
    """
    places = (model, model / "hf", model / "60_export" / "hf")
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"{model} has no Hugging Face folder (looked for config.json in "
            f"{', '.join(map(str, places))}); run the road to its export, or convert the "
            f"checkpoint with 'megatron-math convert'"
        )
    return [
        *("lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},dtype={dtype}"),
        *("--tasks", ",".join(tasks), "--batch_size", str(batch_size)),
        *(("--include_path", str(include)) if include is not None else ()),
        *("--log_samples", "--output_path", str(out)),
    ]


def as_line(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return shlex.join(words)
