"""Was every sample that a run says to have taken taken once, and none beside it?

metrics.jsonl has a digest of the samples of each step, summed over the ranks that read them
(`dataset/digest.py`). Here the same samples are read again from the plan.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.dataset.digest import samples_digest
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.inspect.order import plan_folder
from megatron_math.train.config import TrainConfig
from megatron_math.train.left_out import read_left_out
from megatron_math.train.stages import stages_of

ROWS = 256


def inspect_samples(run: Path) -> dict[str, Any]:
    """Compare the steps of a run with its plan, as far as it has come. JSON types.

    Raises UserError where there is no plan or no training, or an index has changed.
    """
    trained = run / "50_train"
    if not (trained / "metrics.jsonl").is_file():
        raise UserError(
            f"{trained} has no metrics.jsonl; give the folder of a run that was trained"
        )
    plan = load_plan(plan_folder(run))
    train = TrainConfig.model_validate(read_json(trained / "manifest.json")["config"]["train"])
    stages = stages_of(train, plan)
    text = (trained / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    left_out = {step + 1 for record in read_left_out(trained) for step in record["steps"]}
    faults, taken, expected = [], 0, stages[0].first + 1
    readers = {stage.name: PlanReader(plan, stage.name) for stage in stages}
    for row in rows:
        iteration = row["iteration"]
        while expected < iteration and expected in left_out:
            expected += 1
        if iteration != expected:
            faults.append(f"iteration {iteration} stands where {expected} is due")
        expected = iteration + 1
        stage = next(stage for stage in stages if iteration <= stage.end)
        reader, size = readers[stage.name], stage.train.global_batch_size
        first = (iteration - 1 - stage.first) * size
        numbers = np.arange(first, min(first + size, reader.num_samples))
        digest = 0
        for begin in range(0, len(numbers), ROWS):
            part = numbers[begin : begin + ROWS]
            digest += samples_digest(part, reader.batch(part))
        if row.get("samples") != f"{digest % 2**64:016x}":
            faults.append(f"iteration {iteration} did not take samples {first} to {numbers[-1]}")
        taken += len(numbers)
    while expected in left_out:
        expected += 1
    if (trained / "DONE").exists() and expected <= stages[-1].end:
        faults.append(f"the run is done, and iteration {expected} is missing")
    return {
        "run": str(run),
        "iterations": len(rows),
        "of_iterations": stages[-1].end - stages[0].first,
        "samples": taken,
        "left_out": sorted(left_out),
        "faults": faults,
    }


def render_samples(facts: dict[str, Any]) -> Group:
    steps = f"{facts['iterations']} of {facts['of_iterations']} iterations"
    head = f"{facts['samples']} samples in {steps}"
    out = f", {len(facts['left_out'])} iterations left out" if facts["left_out"] else ""
    each = "each was taken once, as the plan has it" if not facts["faults"] else "that is not so:"
    return Group(f"{head}{out}: {each}", *facts["faults"])
