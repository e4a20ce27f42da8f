"""From candidates to what stays: the best of every source, a score for each, reasons for the rest.

Reads influence/candidates-<key>/. Writes <source>.jsonl, drops/<source>.jsonl and, with all scores,
influence/<source>.jsonl.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from megatron_math.base.files import atomic_open
from megatron_math.base.records import enumerate_rows
from megatron_math.curate.influence.run import Job, ranks, scores


def write_selected(job: Job, stage_folder: Path, candidates: Path, stats: dict[str, Any]) -> None:
    """Write the files of each source, and bring `stats`, those of the candidates, up to date."""
    scored = {source.name: source for source in job.sources}
    for name, counts in stats["sources"].items():
        before = candidates / f"{name}.jsonl"
        drops = stage_folder / "drops" / f"{name}.jsonl"
        drops.parent.mkdir(exist_ok=True)
        if name not in scored:
            shutil.copyfile(before, stage_folder / before.name)
            shutil.copyfile(candidates / "drops" / before.name, drops)
            continue
        num_kept = job.config.kept(name, counts["kept"])
        assert num_kept is not None
        scores_NK = scores(job, scored[name])
        places = ranks(scores_NK)
        with (
            atomic_open(stage_folder / before.name) as kept,
            atomic_open(drops) as dropped,
            atomic_open(job.folder / before.name) as all_scores,
        ):
            with open(candidates / "drops" / before.name, encoding="utf-8") as earlier:
                shutil.copyfileobj(earlier, dropped)
            for at, (_, row) in enumerate(enumerate_rows(before)):
                best = int(scores_NK[at].argmax())
                said = {
                    "score": float(scores_NK[at, best]),
                    "target": job.targets[best].name,
                    "rank": int(places[at]) + 1,
                }
                is_kept = places[at] < num_kept
                targets = {
                    t.name: float(s) for t, s in zip(job.targets, scores_NK[at], strict=True)
                }
                _line(
                    all_scores,
                    {"id": row["id"]} | said | {"scores": targets, "kept": bool(is_kept)},
                )
                if is_kept:
                    _line(kept, row)
                else:
                    _line(dropped, row | {"reason": "influence"} | said)
        num_dropped = counts["kept"] - num_kept
        counts["kept"] = num_kept
        counts["dropped"] += num_dropped
        if num_dropped:
            counts["reasons"] = dict(
                sorted((counts["reasons"] | {"influence": num_dropped}).items())
            )
        stats["kept"] -= num_dropped
        stats["dropped"] += num_dropped
    stats["influence"] = {
        "targets": {target.name: target.num_records for target in job.targets},
        "checkpoints": {str(one.iteration): one.weight for one in job.references},
    }


def _line(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
