"""All steps in one road: what they say of a record goes with its line, however the work is cut."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_web import Row, read_rows, wikitext

from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.curate.run import run, run_merge, run_shard

NEAR = {"threshold": 0.8}


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[Row]:
    problems = [
        {"problem": row["question"], "solution": row["answer"], "license": "kept as it is"}
        for row in read_rows(shared_data / "gsm8k" / "test.jsonl")[:120]
    ]
    texts = [{"text": text, "id": f"w{number}", "meta": {"page": number}}
             for number, text in enumerate(wikitext(shared_data, "valid")[:120])]  # fmt: skip
    broken = problems[7] | {"problem": problems[7]["problem"] + r" Say \(x."}
    again = problems[3] | {"solution": problems[3]["solution"] + " Done."}
    return [*problems, *texts, broken, again, problems[5]]


def make_road(folder: Path, rows: list[Row], near: dict[str, Any] | None) -> Road:
    """Half of the rows in a plain file, the others in a packed one."""
    folder.mkdir(parents=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "plain.jsonl").write_text("".join(lines[::2]))
    with gzip.open(folder / "packed.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines[1::2])
    for name, part in (("seed", rows[:60]), ("bad", rows[120:160])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    section: dict[str, Any] = {
        "sources": {"web": {"path": str(folder / "p*")}},
        "recall": {
            "seed": {"path": str(folder / "seed.jsonl")},
            "take": 200,
            "classifier": {"bits": 14},
        },
        "filters": {},
        "near_duplicates": near,
        "labels": {"difficulty": {}},
        "quality": {
            "linear": {
                "good": {"path": str(folder / "seed.jsonl")},
                "bad": {"path": str(folder / "bad.jsonl")},
                "classifier": {"bits": 14},
            },
            "keep": {"web": 0.75},
        },
    }
    section = {name: value for name, value in section.items() if value is not None}
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "all", "curate": section}, sort_keys=False))
    return Road.load(path, runs=folder / "runs")


def written(road: Road) -> dict[str, bytes]:
    folder = road.folder("20_curate")
    paths = [*folder.glob("*.jsonl"), *folder.glob("drops/*.jsonl"), folder / "stats.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


@pytest.mark.parametrize("near", [None, NEAR], ids=["one pass", "two passes"])
def test_shards_write_what_one_process_writes(near, rows: list[Row], tmp_path: Path) -> None:
    whole, cut = (make_road(tmp_path / name, rows, near) for name in ("whole", "cut"))
    run(whole)
    for index in (2, 0, 1):
        run_shard(cut, Shard(index, 3))
    run_merge(cut)
    assert written(whole) == written(cut)
    stats = json.loads(written(whole)["stats.json"])
    reasons = stats["sources"]["web"]["reasons"]
    assert {"not recalled", "filter math", "quality"} <= set(reasons)
    assert ("near-duplicate" in reasons) == (near is not None)


@pytest.mark.parametrize("near", [None, NEAR], ids=["one pass", "two passes"])
def test_a_marked_line_keeps_its_other_members(near, rows: list[Row], tmp_path: Path) -> None:
    road = make_road(tmp_path / "road", rows, near)
    run(road)
    kept = read_rows(road.folder("20_curate") / "web.jsonl")
    assert kept
    for row in kept:
        assert {"recall", "labels", "quality"} <= set(row["meta"])
        if "problem" in row:
            assert row["license"] == "kept as it is"
            assert row["id"].startswith(("plain.jsonl:", "packed.jsonl.gz:"))
        else:
            assert row["meta"]["page"] == int(row["id"][1:])
    dropped = read_rows(road.folder("20_curate") / "drops" / "web.jsonl")
    assert len(kept) + len(dropped) == len(rows)
    by_quality = [row for row in dropped if row["reason"] == "quality"]
    assert by_quality
    assert all(row["score"] == row["meta"]["quality"] for row in by_quality)
