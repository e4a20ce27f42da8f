"""This run beside others: the last model of each, benchmark by benchmark, on the same problems.

Reads 70_evaluate/after of the runs that `report.compare` names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.report.paired import paired
from megatron_math.report.scores import read_side, score_of, verdicts_in

AFTER = Path("70_evaluate") / "after"


def find_runs(road: Road, asked: list[Path]) -> dict[str, Path]:
    """Name -> folder, as given or below that of runs. UserError for a run without scores."""
    found = {}
    for path in asked:
        places = (path, road.runs / path)
        folder = next((place for place in places if (place / AFTER).is_dir()), None)
        if folder is None:
            raise UserError(
                f"report.compare: neither {places[0]} nor {places[1]} is a run with scores "
                f"({AFTER}); evaluate it first, or leave it out"
            )
        found[str(path)] = folder
    return found


def compare_runs(own: Path, others: Mapping[str, Path]) -> list[dict[str, Any]]:
    """One entry a benchmark that this run and another have: scores, and this run minus each."""
    benchmarks = sorted(path.parent.name for path in (own / AFTER).glob("*/scores.json"))
    compared = []
    for name in benchmarks:
        mine = _verdicts(own, name)
        rows = [
            {
                "run": run,
                "score": score_of(read_side(folder / AFTER / name / "scores.json")),
                "change": paired(_verdicts(folder, name), mine),
            }
            for run, folder in others.items()
            if (folder / AFTER / name / "scores.json").is_file()
        ]
        if rows:
            score = score_of(read_side(own / AFTER / name / "scores.json"))
            compared.append({"benchmark": name, "score": score, "others": rows})
    return compared


def _verdicts(folder: Path, benchmark: str) -> dict[str, bool]:
    return verdicts_in(folder / AFTER / benchmark / "predictions.jsonl")
