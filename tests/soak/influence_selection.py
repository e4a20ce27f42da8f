"""Influence on whole roads: planted problems found, and what training on the chosen tenth gains.

    python tests/soak/influence_selection.py [--seeds 5] [--work DIR]

A base is trained on prose and a few problems. Then, for every seed: a pool of 2,000 problems, a
tenth of them of the targets' kind (one template family of level 2), a warm-up with adapters on the
pool, `curate` with `influence.keep: 0.1`, and two roads that train adapters on the base, on the
chosen tenth and on a random one, equally long. Prints JSON: precision of the choice, both losses on
200 problems of that kind that nothing has seen, and gradients a second.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "curate"))

from planted import mean_loss
from train_roads import ROAD, save_hf_llama, write_general

from megatron_math.base.files import read_json
from megatron_math.base.log import set_up_logging
from megatron_math.base.records import Record, read_records, write_records
from megatron_math.base.road import Road
from megatron_math.curate.influence.texts import read_texts
from megatron_math.curate.influence.warm_up import opened, references
from megatron_math.pipeline import run_road
from megatron_math.tokenizer import load_tokenizer

POOL, USEFUL, TARGETS, HELD_OUT = 2000, 200, 40, 200
LORA = {"rank": 8, "alpha": 32}


def write_road(folder: Path, name: str, **sections: Any) -> Road:
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"name": name, "seed": 7, "precision": {"dtype": "fp32"}} | sections)
    )
    return Road.load(path, runs=folder / "runs")


def trained_on(folder: Path, name: str, problems: Path, *, samples: int, seed: int) -> Road:
    """A road that trains adapters on the base with these problems, over and over."""
    road = write_road(
        folder,
        name,
        seed=seed,
        base={"run": "../base"},
        index={"tokenizer": "base", "sources": {"problems": {"path": str(problems)}}},
        blend={
            "sequence_length": 64,
            "tokens": samples * 64,
            "mix": {"problems": {"share": 1, "pack": "whole"}},
        },
        train=ROAD["train"]
        | {"lora": LORA, "lr": 3e-3, "schedule": "cosine", "validation_samples": 0},
        checkpoint={"interval": max(1, samples // 8 // 3), "keep": 3, "async": False},
    )
    run_road(road, last="train")
    return road


def held_out_loss(road: Road, records: list[Record]) -> float:
    """Mean over texts of the mean loss of their tokens, at the last checkpoint."""
    last = references(road.folder("50_train"), None)[-1]
    tokenizer = load_tokenizer(last.checkpoint.folder / "tokenizer")
    texts = read_texts(records, tokenizer, max_tokens=64, loss="all")
    with opened(last, max_tokens=64, dtype="fp32") as (model, _):
        return sum(float(mean_loss(model, text).detach()) for text in texts) / len(texts)


def one_seed(folder: Path, seed: int, problems: list[Record], family: str) -> dict[str, Any]:
    draw = random.Random(seed)
    useful = [one for one in problems if one.meta["family"] == family]
    others = [one for one in problems if one.meta["family"] != family]
    draw.shuffle(useful)
    pool = useful[:USEFUL] + draw.sample(others, POOL - USEFUL)
    draw.shuffle(pool)
    rest = useful[USEFUL:]
    pool_path, target_path = folder / f"pool{seed}.jsonl", folder / f"targets{seed}.jsonl"
    write_records(pool_path, pool)
    write_records(target_path, rest[:TARGETS])
    trained_on(folder, f"warm{seed}", pool_path, samples=480, seed=seed)
    select = write_road(
        folder,
        f"select{seed}",
        curate={
            "sources": {"pool": {"path": str(pool_path)}},
            "dedup": "none",
            "influence": {
                "run": f"../warm{seed}",
                "targets": {"kind": {"path": str(target_path)}},
                "keep": POOL // 10,
                "dimension": 2048,
                "max_tokens": 64,
            },
        },
    )
    begun = time.perf_counter()
    run_road(select)
    seconds = time.perf_counter() - begun
    chosen = list(read_records(select.folder("20_curate") / "pool.jsonl"))
    random_path = folder / f"random{seed}.jsonl"
    write_records(random_path, draw.sample(pool, POOL // 10))
    losses = {}
    for arm, path in (
        ("chosen", select.folder("20_curate") / "pool.jsonl"),
        ("random", random_path),
    ):
        road = trained_on(folder, f"{arm}{seed}", path, samples=320, seed=seed)
        losses[arm] = held_out_loss(road, rest[TARGETS : TARGETS + HELD_OUT])
    stats = read_json(select.folder("20_curate") / "stats.json")
    return {
        "precision": sum(one.meta["family"] == family for one in chosen) / len(chosen),
        "loss": losses,
        "gradients_per_second": len(stats["influence"]["checkpoints"]) * (POOL + TARGETS) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    folder = arguments.work or Path(tempfile.mkdtemp(prefix="influence-"))
    folder.mkdir(parents=True, exist_ok=True)
    save_hf_llama(folder / "hf")
    write_general(folder / "general.jsonl")
    sources = {"general": {"path": str(folder / "general.jsonl")}}
    base = write_road(
        folder,
        "base",
        base={"hf": str(folder / "hf")},
        synthesize={"problems": 12000, "heldout": 0, "levels": {1: 0.3, 2: 0.6, 3: 0.1}},
        index=ROAD["index"] | {"sources": ROAD["index"]["sources"] | sources},
        blend=ROAD["blend"] | {"tokens": 400 * 8 * 64},
        train=ROAD["train"] | {"validation_samples": 0},
        checkpoint=ROAD["checkpoint"],
    )
    run_road(base, last="export")
    problems = list(read_records(base.folder("10_synthesize") / "problems.jsonl"))
    counted = Counter(one.meta["family"] for one in problems if one.meta["level"] == 2)
    family = counted.most_common(1)[0][0]
    rows = [one_seed(folder, seed, problems, family) for seed in range(arguments.seeds)]
    print(json.dumps({"family": family, "families": len(counted), "seeds": rows}, indent=2))
    assert min(row["precision"] for row in rows) >= 0.9
    assert all(row["loss"]["chosen"] < row["loss"]["random"] for row in rows)


if __name__ == "__main__":
    main()
