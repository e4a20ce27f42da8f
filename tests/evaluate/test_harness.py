"""What lm-evaluation-harness is given: files of its format, tasks with our prompts, a command."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate import run as room
from megatron_math.evaluate.harness import command, write_samples, write_task


def test_samples_hold_what_predictions_hold(
    road: Road, tmp_path: Path, add_up: Callable[[str], str]
) -> None:
    stage = room.run(road, open_engine=lambda _: ScriptedEngine(add_up))
    predictions = stage.folder / "after" / "sums" / "predictions.jsonl"
    scores = read_json(predictions.with_name("scores.json"))
    samples, results = write_samples(predictions, tmp_path / "out")
    assert samples.name.startswith("samples_sums_20")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [s["doc_id"] for s in found] == list(range(len(rows)))
    for sample, row in zip(found, rows, strict=True):
        assert sample["resps"] == [[row["output"]]]
        assert sample["filtered_resps"] == [row["extracted"] or "[invalid]"]
        assert sample["target"] == row["reference"]
        asked = sample["arguments"]["gen_args_0"]
        assert asked["arg_0"] == row["prompt"]
        assert asked["arg_1"] == {"until": ["\nQuestion:"], "max_gen_toks": 8, "do_sample": False}
        assert sample["prompt_hash"] == hashlib.sha256(row["prompt"].encode()).hexdigest()
        assert sample["exact_match"] == row["correct"]
    told = read_json(results)
    assert told["results"]["sums"]["exact_match,megatron-math"] == scores["accuracy"]
    assert told["n-samples"]["sums"] == {"original": 23, "effective": 23}
    again, _ = write_samples(predictions, tmp_path / "again")
    assert (again.name, again.read_bytes()) == (samples.name, samples.read_bytes())


def test_a_task_has_our_prompts(road: Road, tmp_path: Path) -> None:
    path = write_task(
        str(tmp_path / "sums.yaml"), tmp_path / "tasks", rows=tmp_path / "sums.jsonl",
        shots=1, limit=5,
    )  # fmt: skip
    task = yaml.safe_load(path.read_text())
    assert task["task"] == "megatron_math_sums"
    assert task["generation_kwargs"]["until"] == ["\nQuestion:"]
    assert task["generation_kwargs"]["max_gen_toks"] == 8
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[0])["prompt"] == (
        "Question: What is 1 + 1?\nSolution: The answer is 2.\n\nQuestion: What is 0 + 10?\n"
        "Solution:"
    )


def test_a_command_names_the_export(road: Road, tmp_path: Path) -> None:
    words = command(road.root, ["gsm8k", "mmlu"], tmp_path / "out", include=tmp_path)
    assert words[:3] == ["lm_eval", "--model", "hf"]
    assert f"pretrained={road.root}/60_export/hf,dtype=float32" in words
    assert "gsm8k,mmlu" in words
    assert command(road.root / "60_export", ["a"], tmp_path)[4] == words[4]
    with pytest.raises(UserError, match="has no Hugging Face folder"):
        command(tmp_path, ["a"], tmp_path)
