"""Continue one small model in bf16 and in every emulated FP8 recipe, and compare the losses.

    python tests/soak/fp8_rehearsal.py FOLDER [--steps 1000] [--only RUN ...]

All runs begin with the same weights, of a model that was trained in fp32 for a quarter of the
steps, and see the same samples in the same order, none twice. Fresh weights, repeated texts and
arithmetic are learnt in jumps, whose moment any rounding moves, by more than what is asked here.
Printed for each run: the mean loss of the last 5 % of the steps, the last validation loss, both
beside bf16, and the largest gap of a shadow step; fp32 shows how far rounding alone takes a run.
Exit code 1 unless every recipe lies within 0.5 % of bf16 and every planted fault outside, in
training and in validation. What is in FOLDER already is not done again.
"""

import argparse
import ast
import json
import math
import os
import shutil
import statistics
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from megatron_math.base.log import set_up_logging
from megatron_math.base.road import Road
from megatron_math.device.start import start_processes
from megatron_math.pipeline import run_road

LARGEST_GAP = 0.005
BATCH, LENGTH = 8, 64
BASE: dict[str, Any] = {
    "name": "base",
    "seed": 11,
    "base": {"preset": "tiny"},
    "model": {
        "hidden_size": 128, "num_layers": 2, "num_attention_heads": 4, "num_query_groups": 2,
        "ffn_hidden_size": 352, "vocab_size": 512, "max_sequence_length": LENGTH,
    },
    "index": {"tokenizer": {"train": {"vocab_size": 512}}},
    "precision": {"dtype": "fp32"},
    "train": {
        "global_batch_size": BATCH,
        "micro_batch_size": BATCH // 2,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup_share": 0.1,
        "validation_samples": 256,
        "tensorboard": False,
        "log_interval": 100,
    },
    "checkpoint": {"interval": 100_000},
}  # fmt: skip
CONTINUED = {key: part for key, part in BASE.items() if key != "model"} | {
    "name": "rehearsal",
    "base": {"run": "../base"},
    "index": {"tokenizer": "base"},
    "precision": {"dtype": "bf16"},
    "train": BASE["train"] | {"schedule": "cosine", "min_lr": 1e-4, "warmup_share": 0.03},
}

SHADOW = "shadow_interval: 50"
RUNS = {
    "bf16": [],
    "fp32": ["precision.dtype=fp32"],
    "tensorwise": [f"precision.fp8={{recipe: tensorwise, backend: emulate, {SHADOW}}}"],
    "delayed": [f"precision.fp8={{recipe: delayed, backend: emulate, {SHADOW}}}"],
    "blockwise": [f"precision.fp8={{recipe: blockwise, backend: emulate, {SHADOW}}}"],
}
PLANTED = {
    "delayed, margin 18": [
        f"precision.fp8={{recipe: delayed, margin: 18, backend: emulate, {SHADOW}}}"
    ],
    "tensorwise, all scales 2^-8": RUNS["tensorwise"],
}
FAULTS = {
    "tensorwise, all scales 2^-8": (
        "import torch\nfrom megatron_math.model import fp8\n"
        "fp8.current_scale = lambda amax, dtype, **_: torch.full_like(amax, 2.0**-8)\n"
    )
}
"""Code that is run before training: faults that no setting can make."""


def english() -> Iterator[str]:
    """Docstrings of Python's own library, each once, in the order of its files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    seen = set()
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "lib2to3"} & set(path.relative_to(library).parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) > 60 and text not in seen:
                    seen.add(text)
                    yield text


def prepare(folder: Path, steps: int) -> None:
    """The base, trained, and the road that continues it up to the blend; done once."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(english())
    parts = {"base": texts[::5], "rehearsal": [t for n, t in enumerate(texts) if n % 5]}
    for road, num_steps in ((BASE, steps // 4), (CONTINUED, steps)):
        name = road["name"]
        path, yaml_path = folder / f"{name}.jsonl", folder / f"{name}.yaml"
        if not yaml_path.exists():
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in parts[name]))
            sources = {"english": {"path": str(path)}}
            blend = {
                "sequence_length": LENGTH,
                "tokens": num_steps * BATCH * LENGTH,
                "mix": {"english": {"share": 1}},
            }
            train = road["train"] | {"validation_interval": max(1, num_steps // 5)}
            index = road["index"] | {"sources": sources}
            whole = road | {"index": index, "blend": blend, "train": train}
            yaml_path.write_text(yaml.safe_dump(whole))
        last = "export" if road is BASE else "blend"
        run_road(Road.load(yaml_path, runs=folder / "runs"), last=last)


def train(folder: Path, name: str, overrides: list[str]) -> Road:
    """Train one run, in a process of its own, unless it is done."""
    runs = folder / name.replace(" ", "_").replace(",", "").replace("^", "")
    road = Road.load(folder / "rehearsal.yaml", overrides, runs)
    if not (road.folder("50_train") / "DONE").exists():
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(folder / "runs", runs, symlinks=True)
        script = runs / "train.py"
        script.write_text(
            "from megatron_math.device.on_cpu import patch_cpu\npatch_cpu()\n"
            + FAULTS.get(name, "")
            + "import os\nfrom megatron_math.train.__main__ import main\n"
            "if __name__ == '__main__':\n    os._exit(main())\n"
        )
        command = [sys.executable, str(script), str(road.yaml_path), "--runs", str(runs)]
        code = start_processes([*command, *overrides], 1, env=dict(os.environ))
        assert code == 0, f"{name}: training ended with {code}"
    return road


def rows(road: Road, file: str) -> list[dict[str, Any]]:
    lines = (road.folder("50_train") / file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def figures(road: Road) -> dict[str, float]:
    """Final losses, the largest shadow gap (0 without) and seconds a step."""
    steps = rows(road, "metrics.jsonl")
    last = steps[-math.ceil(len(steps) / 20) :]
    held_out = rows(road, "validation.jsonl")[-1]
    tokens = held_out["tokens"]
    return {
        "training": statistics.fmean(row["lm loss"] for row in last),
        "validation": sum(held_out["loss"][s] * tokens[s] for s in tokens) / sum(tokens.values()),
        "shadow": max((abs(row.get("fp8/loss-gap", 0.0)) for row in steps), key=_nan_is_largest),
        "seconds": statistics.median(row["elapsed_ms"] for row in steps) / 1000,
    }


def _nan_is_largest(value: float) -> float:
    return math.inf if math.isnan(value) else value


def gap(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {k: one[k] / other[k] - 1 for k in ("training", "validation")}


def within(gaps: dict[str, float]) -> bool:
    return all(abs(value) <= LARGEST_GAP for value in gaps.values())


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| run | loss, last 5 % of steps | beside bf16 | validation | beside bf16 | largest shadow gap | s a step |",  # noqa: E501
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        gaps = gap(one, results["bf16"])
        lines.append(
            f"| {name} | {one['training']:.4f} | {gaps['training']:+.2%} | "
            f"{one['validation']:.4f} | {gaps['validation']:+.2%} | {one['shadow']:.2%} | "
            f"{one['seconds']:.3f} |"
        )
    return "\n".join(lines)


def rehearse(folder: Path, steps: int, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Figures of every run in `names`."""
    prepare(folder, steps)
    return {name: figures(train(folder, name, (RUNS | PLANTED)[name])) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=[*RUNS, *PLANTED], metavar="RUN")
    arguments = parser.parse_args()
    set_up_logging()
    names = ["bf16", *(n for n in [*RUNS, *PLANTED][1:] if n in (arguments.only or [n]))]
    results = rehearse(arguments.folder, arguments.steps, names)
    print(table(results))  # noqa: T201
    bad = [
        name for name in names if within(gap(results[name], results["bf16"])) == (name in PLANTED)
    ]
    for name in bad:
        place = "within" if name in PLANTED else "outside"
        print(f"FAILED: {name} is {place} {LARGEST_GAP:.1%} of bf16")  # noqa: T201
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
