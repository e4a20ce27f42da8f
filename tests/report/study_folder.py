"""A finished study as its roads leave it, small and made up; results.json is the study's own."""

import random
from pathlib import Path
from typing import Any

import yaml
from run_folder import write_lines

from megatron_math.base.files import write_json
from megatron_math.study.plan import StudyPlan, plan_study, read_study
from megatron_math.study.results import make_results

ITEMS = 90
# Share of right answers at level 1; each level above has two fifths of it.
RIGHT = {"texts": 0.12, "mix_5_5": 0.55, "mix_3_7": 0.63, "shuffled": 0.08}
ABOUT = {
    "texts": "prose only",
    "mix_5_5": "prose and problems, half each",
    "mix_3_7": "three parts of prose, seven of problems",
    "shuffled": "the control: every problem with another one's solution",
}
STARTS = "Problems with a number for an answer.\n\n"


def write_study(folder: Path, seeds: int = 5) -> StudyPlan:
    """Four arms; the last arm's last seed has not been made."""
    study: dict[str, Any] = {
        "name": "rq",
        "description": "The same tokens as prose or as problems.",
        "seeds": list(range(1, seeds + 1)),
        "resamples": 400,
        "budget": {"tokens": 100_000},
        "road": {
            "base": {"preset": "tiny"},
            "blend": {
                "sequence_length": 256,
                "tokens": 100_000,
                "mix": {"general": {"share": 1, "path": "general_text_document"}},
            },
            "train": {"global_batch_size": 8, "lr": 1e-3},
            "evaluate": {"who": ["after"], "benchmarks": ["sums"]},
        },
        "arms": {arm: {"description": ABOUT[arm]} for arm in RIGHT},
        "compare": [
            {"arm": "mix_5_5", "baseline": "texts", "claim": "Problems beat prose at equal tokens",
             "metrics": ["sums", "sums[level=1]"]},
            {"arm": "shuffled", "baseline": "texts", "expect": "no difference",
             "claim": "Shuffled solutions teach nothing", "metrics": ["sums"]},
            {"weights": {"mix_3_7": 1, "mix_5_5": -1}, "claim": "More problems are better still",
             "metrics": ["sums", "validation loss[general]"]},
        ],
        "gains": [{"arm": "mix_5_5", "reference": "mix_3_7", "control": "texts",
                   "metrics": ["sums"]}],
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    plan = plan_study(read_study(path), folder / "runs")
    _curate(plan.folder / "base")
    for arm in plan.arms:
        if (arm.arm, arm.seed) != ("shuffled", seeds):
            _finish(arm.road.root, arm.arm, arm.seed)
    make_results(plan.config, plan.arms, plan.folder)
    return plan


def _curate(root: Path) -> None:
    folder = root / "20_curate"
    looked = {
        "benchmark": "sums", "rule": "ngram13", "rows": 84, "rows not looked for": 6,
        "rows found": 2, "dropped": 7, "hits allowed": 1,
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_json(folder / "stats.json", {"benchmarks": [looked]})
    (folder / "DONE").write_text("x\n")


def _finish(root: Path, arm: str, seed: int) -> None:
    for stage in ("50_train", "70_evaluate"):
        (root / stage).mkdir(parents=True, exist_ok=True)
        (root / stage / "DONE").write_text("x\n")
    write_json(root / "50_train" / "stats.json", {"tokens": 100_000 + seed})
    draw = random.Random(f"{arm} {seed}")
    metrics, validation = [], []
    for iteration in range(0, 101, 20):
        fall = 0.97**iteration * (0.2 + RIGHT[arm])
        losses = {"general": 3.1 + 0.3 * fall + draw.gauss(0, 0.01), "prose": 1.9 + fall}
        tokens = dict.fromkeys(losses, 4096)
        at = {"iteration": iteration, "consumed_samples": iteration * 8}
        validation.append(at | {"loss": losses, "tokens": tokens})
        if iteration:
            metrics.append(
                at | {"consumed_tokens": iteration * 1000 + seed, "lm loss": losses["prose"],
                      "elapsed_ms": 10.0, "tokens_per_second": 1e4, "learning-rate": 1e-3,
                      "grad-norm": 1.0}
            )  # fmt: skip
    write_lines(root / "50_train" / "metrics.jsonl", metrics)
    write_lines(root / "50_train" / "validation.jsonl", validation)
    rows = [_row(number, arm, draw) for number in range(ITEMS)]
    place = root / "70_evaluate" / "after" / "sums"
    write_lines(place / "predictions.jsonl", rows)
    correct = sum(row["correct"] for row in rows)
    write_json(place / "scores.json", {"n": ITEMS, "correct": correct})
    wrong = next(row for row in rows if not row["correct"])
    write_lines(
        place / "disputed.jsonl",
        [{"id": wrong["id"], "correct": False, "math_verify": True}],
    )


def _row(number: int, arm: str, draw: random.Random) -> dict[str, Any]:
    level = 1 + number % 3
    first, second = 3 + number, 2 * number + level
    right = draw.random() < RIGHT[arm] * 0.4 ** (level - 1)
    said = first + second + (0 if right else draw.randint(1, 9))
    cut = not right and draw.random() < 0.1
    thought = "well, let me think about that " * 6
    return {
        "id": f"s-{number}", "benchmark": "sums",
        "prompt": f"{STARTS}Question: Ida has {first} stamps and is given {second}. How many has "
        "she now?\nSolution:",
        "reference": str(first + second),
        "output": thought if cut else f" {first} + {second} = {said}. The answer is {said}.",
        "finish": "length" if cut else "stop",
        "extracted": None if cut else str(said),
        "correct": right,
        "meta": {"level": str(level), "level, seen": f"{level}, true"},
    }  # fmt: skip
