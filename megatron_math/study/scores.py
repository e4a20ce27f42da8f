"""What the roads of a study measured: by metric and arm, [seeds, items] or [seeds, 1].

Metrics: a benchmark's name (share of right answers), `name[group]` as in scores.json, `average` of
all benchmarks, `validation loss[source]`, `validation loss` (of all that the arm trains on) and
`validation loss of text[name]` (texts of `evaluate.retention`). Of a benchmark that a protocol asks
in several ways it is the way with the most right answers, road by road; `name-3shot` is one way.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.base.statistics import Scores
from megatron_math.evaluate.exam import exam_of
from megatron_math.evaluate.predictions import read_predictions
from megatron_math.evaluate.scores import group_label
from megatron_math.study.plan import ArmRoad

AVERAGE, LOSS = "average", "validation loss"
TEXT_LOSS = f"{LOSS} of text"
PREDICTIONS = "70_evaluate/after/{}/predictions.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Measured:
    """One metric of one road: values, and the items that they are of (none for a loss)."""

    values: Scores
    items: tuple[str, ...] = ()


@dataclass
class Table:
    """metric -> arm -> seed -> what was measured; roads that have no result, with the reason."""

    found: dict[str, dict[str, dict[int, Measured]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def put(self, metric: str, arm: ArmRoad, measured: Measured) -> None:
        self.found.setdefault(metric, {}).setdefault(arm.arm, {})[arm.seed] = measured

    def seeds(self, metric: str, arms: Iterable[str]) -> list[int]:
        """Seeds for which all these arms have the metric."""
        by_arm = self.found.get(metric, {})
        sets = [set(by_arm.get(arm, {})) for arm in arms]
        return sorted(set.intersection(*sets)) if sets else []

    def together(self, metric: str, weights: Mapping[str, float]) -> Scores | None:
        """[seeds, items] of a weighted sum of arms, over seeds and items that all of them have.

        Where seeds were asked different items, or an arm others than another, the means of seeds
        are what is left: [seeds, 1]. None where no seed has all arms.
        """
        seeds = self.seeds(metric, weights)
        if not seeds:
            return None
        by_arm = self.found[metric]
        rows = [[by_arm[arm][seed] for arm in weights] for seed in seeds]
        items = {measured.items for row in rows for measured in row}
        same = len(items) == 1 and len({m.values.size for row in rows for m in row}) == 1
        parts = [
            sum(
                weight * (measured.values if same else measured.values.mean(keepdims=True))
                for weight, measured in zip(weights.values(), row, strict=True)
            )
            for row in rows
        ]
        return np.stack([np.asarray(part, dtype=np.float64) for part in parts])


def gather(arms: Sequence[ArmRoad]) -> Table:
    """Read what is finished; a road that is not stands in `missing`."""
    table = Table()
    for arm in arms:
        road = arm.road
        wanted = [s for s in ("50_train", "70_evaluate") if _asks(road, s, arm)]
        not_done = [stage for stage in wanted if not (road.folder(stage) / "DONE").is_file()]
        if not_done:
            table.missing[arm.key] = f"{', '.join(not_done)} is not finished"
            continue
        for metric, measured in _measured(road).items():
            table.put(metric, arm, measured)
    return table


def _asks(road: Road, stage: str, arm: ArmRoad) -> bool:
    return arm.is_made_elsewhere or road.has(stage.partition("_")[2])


def _measured(road: Road) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    after = road.folder("70_evaluate") / "after"
    exams = sorted(path.parent.name for path in after.glob("*/predictions.jsonl"))
    for exam in exams:
        rows = read_predictions(road.root / PREDICTIONS.format(exam))
        found |= _by_group(exam, rows)
    ways = _several_ways(after / SUMMARY)
    for name, exam in ways.items():
        rows = read_predictions(road.root / PREDICTIONS.format(exam))
        found |= _by_group(name, rows)
    if exams:
        names = {*exams, *ways} - {exam for exam in exams if exam.rpartition("-")[0] in ways}
        means = [found[name].values.mean() for name in sorted(names)]
        found[AVERAGE] = Measured(np.array([float(np.mean(means))]))
    found |= _losses_of_texts(road.folder("70_evaluate"))
    return found | _losses(road.folder("50_train") / "validation.jsonl")


def _several_ways(summary: Path) -> dict[str, str]:
    """benchmark -> its exam with the most right answers; of equal ones the fewest examples."""
    if not summary.is_file():
        return {}
    by_benchmark: dict[str, dict[str, float]] = read_json(summary)["of"]
    return {
        name: exam_of(name, min((int(shots) for shots in ways), key=lambda n: (-ways[str(n)], n)))
        for name, ways in by_benchmark.items()
        if len(ways) > 1
    }


def _by_group(name: str, rows: Sequence[Mapping]) -> dict[str, Measured]:
    members: dict[str, list[Mapping]] = {name: list(rows)}
    for row in rows:
        for group, value in row["meta"].items():
            members.setdefault(f"{name}[{group_label(group, value)}]", []).append(row)
    return {
        metric: Measured(
            np.array([float(row["correct"]) for row in found]), tuple(row["id"] for row in found)
        )
        for metric, found in members.items()
    }


def _losses_of_texts(folder: Path) -> dict[str, Measured]:
    """Of the last model on each document of the texts that `evaluate.retention` names."""
    path = folder / "retention.json"
    if not path.is_file():
        return {}
    found: dict[str, Measured] = {}
    for name in (text["text"] for text in read_json(path)["texts"]):
        own = folder / "retention" / "after" / f"{name}.json"
        losses = read_json(own)["losses"] if own.is_file() else []
        read = {str(n): loss for n, loss in enumerate(losses) if loss is not None}
        if read:
            found[f"{TEXT_LOSS}[{name}]"] = Measured(np.array(list(read.values())), tuple(read))
    return found


def _losses(path: Path) -> dict[str, Measured]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        return {}
    last = json.loads(lines[-1])
    losses, tokens = last["loss"], last["tokens"]
    mean = sum(losses[source] * tokens[source] for source in losses) / sum(tokens.values())
    by_name = {LOSS: mean} | {f"{LOSS}[{source}]": loss for source, loss in losses.items()}
    return {metric: Measured(np.array([float(value)])) for metric, value in by_name.items()}


def trained_tokens(road: Road) -> int | None:
    """What 50_train says that it consumed."""
    path = road.folder("50_train") / "stats.json"
    return read_json(path)["tokens"] if path.is_file() else None
