"""All steps of the room in one road: each record is where it belongs, and the counts add up."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_web import gsm8k, read_rows, wikitext, write_rows

from megatron_math.base.road import Road
from megatron_math.curate.run import run


@pytest.fixture
def section(tmp_path: Path, shared_data: Path) -> dict[str, Any]:
    math, general = gsm8k(shared_data, 0, 220), wikitext(shared_data, "valid")[:300]
    pages = [(f"m{n}", text) for n, text in enumerate(math[:100])]
    pages += [(f"g{n}", text) for n, text in enumerate(general[:200])]
    pages += [("again", math[3].upper()), ("near", math[4] + " Well done."),
              ("broken", math[5] + "\nSo \\frac{1}{2 it is $x.")]  # fmt: skip
    texts = {
        "pool": [{"id": name, "text": text} for name, text in pages],
        "seed": [{"id": str(n), "text": text} for n, text in enumerate(math[100:220])],
        "bad": [{"id": str(n), "text": text} for n, text in enumerate(general[200:])],
    }
    problems = [
        {"id": f"p{n}", "problem": f"What is the number {n}, and why?",
         "solution": "\n".join(f"{k} + {n} = {k + n}" for k in range(n))}
        for n in range(8)
    ]  # fmt: skip
    paths = {name: {"path": str(write_rows(tmp_path / f"{name}.jsonl", rows))}
             for name, rows in {**texts, "problems": problems}.items()}  # fmt: skip
    return {
        "sources": {"pool": paths["pool"], "problems": paths["problems"]},
        "recall": {"pool": ["pool"], "seed": paths["seed"], "take": 103, "rounds": 1,
                   "classifier": {"bits": 16}},
        "filters": {"language": {"keep": ["en"]}},
        "near_duplicates": {"threshold": 0.8},
        "labels": {"difficulty": {}, "keep": {}},
        "quality": {"linear": {"good": paths["seed"], "bad": paths["bad"],
                               "classifier": {"bits": 16}}, "keep": {"pool": 50}},
    }  # fmt: skip


def test_each_step_takes_its_own(tmp_path: Path, section: dict[str, Any]) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "steps", "curate": section}, sort_keys=False))
    folder = run(Road.load(path, runs=tmp_path / "runs")).folder
    stats = json.loads((folder / "stats.json").read_text())
    pool = stats["sources"]["pool"]
    drops = {row["id"]: row for row in read_rows(folder / "drops" / "pool.jsonl")}
    kept = read_rows(folder / "pool.jsonl")
    print(pool)
    assert (pool["read"], pool["kept"], len(kept)) == (303, 50, 50)
    assert pool["dropped"] == len(drops) == sum(pool["reasons"].values()) == 253
    assert pool["reasons"]["not recalled"] == 200
    assert {name for name, row in drops.items() if row["reason"] == "not recalled"} == {
        f"g{n}" for n in range(200)
    }
    assert drops["broken"]["reason"] == "filter math"
    assert drops["again"]["reason"] == "duplicate"
    assert {drops[name]["reason"] for name in ("m4", "near") if name in drops} >= {"near-duplicate"}
    assert all(set(row["meta"]) == {"recall", "labels", "quality"} for row in kept)
    assert pool["labels"] == {"difficulty": {"none": 100}}
    assert stats["recall"]["collected"] == 103
    problems = stats["sources"]["problems"]
    assert problems["labels"] == {"difficulty": {"easy": 3, "hard": 2, "medium": 3}}
    assert problems["kept"] == 8
    assert stats["kept"] == 58
