"""The page of a study: what was asked and seen, arm by arm, and answers side by side.

Reads runs/<study>/results.json, and of every arm's road validation.jsonl, metrics.jsonl,
predictions.jsonl, curation's stats. Writes runs/<study>/report/{index.html, data.json}.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json, write_text
from megatron_math.base.stage import code_version
from megatron_math.report.contamination import read_contamination, set_of
from megatron_math.report.examples import read_examples
from megatron_math.report.training import ALL, read_training

FORMAT, VERSION = "megatron-math study report", 1
FOLDER = "report"
EXAMPLES = 48
AFTER = Path("70_evaluate") / "after"
Facts = dict[str, Any]
Arms = Mapping[tuple[str, int], Path]


def write_study_page(folder: Path, arms: Arms, shared: Sequence[Path] = ()) -> Path:
    """Write the page of the study in `folder`; returns its path.

    arms: (arm, seed) -> the road's folder, made or not. shared: folders of roads made before them.
    Raises UserError when there is no results.json.
    """
    facts = gather_study(folder, arms, shared)

    from megatron_math.report.study_page import render_study  # jinja2 only where a page is made

    page = folder / FOLDER / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, render_study(facts))
    write_json(page.with_name("data.json"), facts)
    return page


def gather_study(folder: Path, arms: Arms, shared: Sequence[Path] = ()) -> Facts:
    """All facts of the page, as JSON values."""
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist; run the study first ('megatron-math study')")
    results = read_json(path)
    seed, examples = _examples(results, arms)
    return {
        "format": FORMAT,
        "version": VERSION,
        "code": code_version(),
        "results": results,
        "seen": dict(Counter(found["verdict"] for found in results["compare"])),
        "roads": {"asked": len(arms), "without_result": len(results["missing"])},
        "curves": read_curves(results["arms"], arms),
        "contamination": read_contamination(_curations(arms, shared)),
        "benchmarks": sorted(_benchmarks(arms)),
        "examples_seed": seed,
        "examples": examples,
    }


def _benchmarks(arms: Arms) -> set[str]:
    return {
        set_of(path.parent.name)
        for root in arms.values()
        for path in (root / AFTER).glob("*/scores.json")
    }


def _examples(results: Facts, arms: Arms) -> tuple[int | None, list[Facts]]:
    """Answers of all arms to the same problems, with the seed that most arms have answers of."""
    answered = Counter(
        seed for (_, seed), root in arms.items() if any((root / AFTER).glob("*/predictions.jsonl"))
    )
    if not answered:
        return None, []
    seed = max(answered, key=lambda one: (answered[one], -results["seeds"].index(one)))
    sides = {arm: arms[arm, seed] / AFTER for arm in results["arms"] if (arm, seed) in arms}
    benchmarks = sorted({p.parent.name for s in sides.values() for p in s.glob("*/scores.json")})
    found = [
        read_examples(
            name, {arm: side / name / "predictions.jsonl" for arm, side in sides.items()}, EXAMPLES
        )
        for name in benchmarks
    ]
    return seed, [one for one in found if one is not None]


def _curations(arms: Arms, shared: Sequence[Path]) -> dict[str, Path]:
    """Folders of curation by the road's name; a link to another's is that one."""
    folders = {root.name: root / "20_curate" for root in (*shared, *arms.values())}
    own: dict[Path, str] = {}
    for name, folder in folders.items():
        own.setdefault(folder.resolve(), name)
    return {name: folder for folder, name in own.items()}


def read_curves(names: Sequence[str], arms: Arms) -> list[Facts]:
    """By source and arm: held-out loss over tokens, the mean of the seeds that are done."""
    runs: dict[str, list[Facts]] = {}
    for (arm, _), root in arms.items():
        training = read_training(root / "50_train")
        if training is not None:
            runs.setdefault(arm, []).append(training)
    curves: dict[str, list[Facts]] = {}
    for arm in names:
        for source, points in _means(runs.get(arm, [])).items():
            curves.setdefault(source, []).append(
                {"arm": arm, "seeds": len(runs[arm]), "points": points}
            )
    return [{"source": source, "arms": found} for source, found in curves.items() if source != ALL]


def _means(runs: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Seeds are validated at the same iterations; the tokens of these differ by little."""
    found: dict[str, list[Facts]] = {}
    by_source: dict[str, list[list[Facts]]] = {}
    for run in runs:
        for curve in run["curves"]:
            by_source.setdefault(curve["source"], []).append(curve["validation"])
    for source, seeds in by_source.items():
        points = zip(*seeds, strict=False)
        found[source] = [
            {
                "tokens": round(statistics.fmean(point["tokens"] for point in same)),
                "loss": math.fsum(point["loss"] for point in same) / len(same),
            }
            for same in points
        ]
    return {source: points for source, points in found.items() if points}
