"""From scores to answers: means with intervals, paired differences, net gains; JSON, CSV, tables.

Writes runs/<study>/results.json and results.csv (docs/formats.md).
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json, write_text
from megatron_math.base.statistics import Estimate, Scores, estimate, ratio
from megatron_math.study.config import CompareConfig, GainConfig, StudyConfig
from megatron_math.study.plan import ArmRoad
from megatron_math.study.scores import LOSS, Table, gather, trained_tokens

FORMAT, VERSION = "megatron-math study", 1
Facts = dict[str, Any]
COLUMNS = ("kind", "name", "metric", "mean", "low", "high", "p", "p_seeds", "seeds", "items",
           "verdict")  # fmt: skip


def make_results(config: StudyConfig, arms: Sequence[ArmRoad], folder: Path) -> Facts:
    """Gather, compute and write; returns what results.json holds."""
    facts = compute(config, arms, gather(arms))
    write_json(folder / "results.json", facts)
    write_text(folder / "results.csv", as_csv(facts))
    return facts


def compute(config: StudyConfig, arms: Sequence[ArmRoad], table: Table) -> Facts:
    """The facts of a study. UserError for a metric that no finished arm has."""
    metrics = _metrics(config, table)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": config.name,
        "description": config.description,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "seeds": config.seeds,
        "metrics": metrics,
        "arms": {arm: _arm(config, arm, arms, table, metrics) for arm in config.arms},
        "compare": [
            found
            for asked in config.compare
            for metric in asked.metrics or metrics
            if (found := _compared(config, asked, metric, table)) is not None
        ],
        "gains": [
            found
            for asked in config.gains
            for metric in asked.metrics or metrics
            if (found := _gained(config, asked, metric, table)) is not None
        ],
        "missing": table.missing,
    }


def _metrics(config: StudyConfig, table: Table) -> list[str]:
    if not table.found:
        return config.metrics
    asked = [*config.metrics, *(m for c in config.compare for m in c.metrics or [])]
    asked += [m for g in config.gains for m in g.metrics or []]
    for metric in asked:
        if metric not in table.found:
            raise UserError(
                f"no arm has the metric '{metric}'; there are {', '.join(sorted(table.found))}"
            )
    return config.metrics or sorted(table.found)


def _estimate(config: StudyConfig, scores_SI: Scores) -> Estimate:
    return estimate(
        scores_SI,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )


def _described(found: Estimate, bounds: tuple[float, float] | None) -> Facts:
    low, high = found.low, found.high
    if bounds is not None:  # no share is below 0 or above 1
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return {
        "mean": found.mean,
        "low": low,
        "high": high,
        "standard_error": found.standard_error,
        "bootstrap": list(found.bootstrap),
        "seeds": found.num_seeds,
        "items": found.num_items,
    }


def _is_loss(metric: str) -> bool:
    return metric.startswith(LOSS)


def _arm(
    config: StudyConfig, arm: str, arms: Sequence[ArmRoad], table: Table, metrics: list[str]
) -> Facts:
    scores: Facts = {}
    for metric in metrics:
        together = table.together(metric, {arm: 1.0})
        if together is None:
            continue
        bounds = None if _is_loss(metric) else (0.0, 1.0)
        by_seed = dict(zip(table.seeds(metric, [arm]), together.mean(axis=1).tolist(), strict=True))
        scores[metric] = _described(_estimate(config, together), bounds) | {
            "by_seed": {str(seed): value for seed, value in by_seed.items()}
        }
    tokens = {
        str(road.seed): found
        for road in arms
        if road.arm == arm and (found := trained_tokens(road.road)) is not None
    }
    description = config.arms[arm].get("description", "")
    return {"description": description, "trained_tokens": tokens, "metrics": scores}


def _compared(config: StudyConfig, asked: CompareConfig, metric: str, table: Table) -> Facts | None:
    weights = asked.combination()
    together = table.together(metric, weights)
    if together is None:
        return None
    found = _estimate(config, together)
    described = _described(found, None)
    return {
        "name": asked.title(),
        "claim": asked.claim,
        "weights": weights,
        "metric": metric,
        "expect": asked.expect,
        **described,
        "p": found.p,
        "p_seeds": found.p_seeds,
        "by_seed": {
            str(seed): value
            for seed, value in zip(
                table.seeds(metric, weights), together.mean(axis=1).tolist(), strict=True
            )
        },
        "verdict": verdict(found, asked.expect),
    }


def verdict(found: Estimate, expect: str) -> str:
    """What an interval says of an expectation: yes, no (the opposite is shown), not shown."""
    if found.num_seeds < 2:
        return "not shown"  # one seed says nothing about others
    if expect == "no difference":
        return "no" if found.low > 0 or found.high < 0 else "not contradicted"
    sign = 1 if expect == "above" else -1
    if sign * found.low > 0 and sign * found.high > 0:
        return "yes"
    return "no" if sign * found.low < 0 and sign * found.high < 0 else "not shown"


def _gained(config: StudyConfig, asked: GainConfig, metric: str, table: Table) -> Facts | None:
    arms = (asked.arm, asked.reference, asked.control)
    zero = dict.fromkeys(arms, 0.0)
    # The same seeds and items for both gains: the third arm has the weight 0.
    own = table.together(metric, zero | {asked.arm: 1.0, asked.control: -1.0})
    reference = table.together(metric, zero | {asked.reference: 1.0, asked.control: -1.0})
    if own is None or reference is None:
        return None
    share = ratio(own, reference, confidence=config.confidence)
    return {
        "name": f"({asked.arm} - {asked.control}) / ({asked.reference} - {asked.control})",
        "claim": asked.claim,
        "metric": metric,
        "gain": _described(_estimate(config, own), None),
        "reference_gain": _described(_estimate(config, reference), None),
        "share": {"mean": share.value, "low": share.low, "high": share.high},
    }


def as_csv(facts: Mapping[str, Any]) -> str:
    """One line an arm and metric, a comparison, a gain."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_rows(facts))
    return out.getvalue()


def _rows(facts: Mapping[str, Any]) -> Iterator[Facts]:
    for name, arm in facts["arms"].items():
        for metric, found in arm["metrics"].items():
            yield {"kind": "arm", "name": name, "metric": metric, **found}
    for found in facts["compare"]:
        yield {"kind": "difference", **found}
    for found in facts["gains"]:
        named = {"name": found["name"], "metric": found["metric"]}
        yield {"kind": "share of gain", **named, **found["share"]}
