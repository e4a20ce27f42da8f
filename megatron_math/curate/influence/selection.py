"""From candidates to what stays: the best of every source, a score for each, reasons for the rest.

Reads influence/candidates-<key>/. Writes <source>.jsonl, drops/<source>.jsonl and, with all scores,
influence/<source>.jsonl.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_math.base.files import atomic_open
from megatron_math.base.records import Record, parse_line, record_from_row
from megatron_math.curate.influence.run import Job, ranks, scores
from megatron_math.curate.lines import json_line


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
            open(before, "rb") as lines,
            atomic_open(stage_folder / before.name, "wb") as kept,
            atomic_open(drops, "wb") as dropped,
            atomic_open(job.folder / before.name, "wb") as all_scores,
        ):
            with open(candidates / "drops" / before.name, "rb") as earlier:
                shutil.copyfileobj(earlier, dropped)
            for at, line in enumerate(lines):
                record = _record(line, before, at + 1, name)
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
                all_said = {"id": record.id} | said | {"scores": targets, "kept": bool(is_kept)}
                all_scores.write(json_line(all_said))
                if is_kept:
                    kept.write(line)
                else:
                    dropped.write(json_line(record.to_json() | {"reason": "influence"} | said))
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


def _record(line: bytes, path: Path, number: int, source: str) -> Record:
    where = f"{path}, line {number}"
    row = parse_line(line, path, number)
    record = record_from_row(row, default_id="", default_source=source, where=where)
    return replace(record, source=source)
