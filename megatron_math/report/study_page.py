"""The facts of a study into one HTML file. Reads study.html and what it includes."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from megatron_math.report import charts
from megatron_math.report.environment import render
from megatron_math.report.figures import large, loss, percent, points

Facts = dict[str, Any]
LOSS = "validation loss"
SEEN = {
    "yes": "shown",
    "no": "the opposite is shown",
    "not shown": "not shown",
    "not contradicted": "not contradicted",
}
NUM_STYLES = 8


def render_study(facts: Facts) -> str:
    """The whole page; it refers to no other file but the data beside it."""
    return render(
        "study.html",
        facts,
        blocks=metric_blocks(facts["results"]),
        curve_panels=curve_panels(facts["curves"]),
        difference_bars=difference_bars(facts["results"]["compare"]),
        arm_styles=arm_styles(facts["results"]["arms"]),
        seen_words=SEEN,
        is_loss=is_loss,
    )


def is_loss(metric: str) -> bool:
    return metric.startswith(LOSS)


def arm_styles(arms: Sequence[str]) -> dict[str, str]:
    """Arm -> a class of page.css, the same in every drawing."""
    return {arm: f"c{number % NUM_STYLES}" for number, arm in enumerate(arms)}


def metric_blocks(results: Facts) -> list[Facts]:
    """Metrics by benchmark: the whole, then its groups by what they divide by."""
    blocks: dict[str, dict[str, list[str]]] = {}
    for metric in results["metrics"]:
        name, _, group = metric.removesuffix("]").partition("[")
        by = ", ".join(part.partition("=")[0] for part in group.split(", "))
        if group and is_loss(name):
            by = "source"
        blocks.setdefault(name, {}).setdefault(by, []).append(metric)
    return [_block(name, divisions, results["arms"]) for name, divisions in blocks.items()]


def _block(name: str, divisions: dict[str, list[str]], arms: Facts) -> Facts:
    """Shares of right answers have one axis from 0; losses of different texts have one each."""
    metrics = [metric for own in divisions.values() for metric in own]
    found = [arm["metrics"][m] for arm in arms.values() for m in metrics if m in arm["metrics"]]
    highest = max((one["high"] for one in found), default=1.0)
    span = None if is_loss(name) else (0.0, min(1.0, max(0.1, highest * 1.05)))
    return {
        "name": name,
        "divisions": [
            {"by": by, "panels": [_panel(metric, arms, span) for metric in own]}
            for by, own in sorted(
                divisions.items(), key=lambda d: len(d[0].split(", ")) if d[0] else 0
            )
        ],
    }


def _panel(metric: str, arms: Facts, span: tuple[float, float] | None) -> Facts:
    write = loss if is_loss(metric) else percent
    is_part = "[" in metric
    measured = [arm["metrics"][metric] for arm in arms.values() if metric in arm["metrics"]]
    if span is None and measured:
        span = charts.spread(min(m["low"] for m in measured), max(m["high"] for m in measured))
    rows = []
    for name, arm in arms.items():
        if is_part and not arm["metrics"]:
            continue  # the panel of the whole says that it is missing
        found = arm["metrics"].get(metric)
        bar = Markup("")
        if found is not None and span is not None:
            mean, low, high = found["mean"], found["low"], found["high"]
            told = f"{name}: {write(mean)}, {write(low)} to {write(high)}"
            bar = charts.dot(mean, (low, high), span, told)
        rows.append({"arm": name, "found": found, "bar": bar})
    return {
        "metric": metric,
        "group": metric.removesuffix("]").partition("[")[2],
        "axis": [write(edge) for edge in span] if span is not None else [],
        "rows": rows,
    }


def difference_bars(compared: Sequence[Facts]) -> list[Markup]:
    """A dot with its interval for every comparison, on one axis for shares and one for losses."""
    reach: dict[bool, float] = {}
    for found in compared:
        kind = is_loss(found["metric"])
        far = max(abs(found["low"]), abs(found["high"]))
        reach[kind] = max(reach.get(kind, 0.0), far)
    bars = []
    for found in compared:
        most = reach[is_loss(found["metric"])] or 1.0
        write = loss if is_loss(found["metric"]) else points
        told = f"{write(found['mean'])}, {write(found['low'])} to {write(found['high'])}"
        bars.append(
            charts.dot(found["mean"], (found["low"], found["high"]), (-most, most), told, zero=0.0)
        )
    return bars


def curve_panels(curves: Sequence[Facts]) -> list[Facts]:
    """One plot a source, a line an arm; every source has its own range of losses."""
    names = list(dict.fromkeys(arm["arm"] for curve in curves for arm in curve["arms"]))
    styles = arm_styles(names)
    panels = []
    for curve in curves:
        losses = [point["loss"] for arm in curve["arms"] for point in arm["points"]]
        tokens = max(point["tokens"] for arm in curve["arms"] for point in arm["points"])
        frame = charts.Frame(
            x=(0, tokens or 1),
            y=charts.spread(min(losses), max(losses)),
            write_x=large,
            write_y=lambda value: f"{value:g}",
            unit_x="tokens",
        )
        series = [
            charts.Series(
                Markup("{}").format(arm["arm"]),
                [(point["tokens"], point["loss"]) for point in arm["points"]],
                styles[arm["arm"]],
                dots=True,
            )
            for arm in curve["arms"]
        ]
        described = f"Held-out loss of {curve['source']} over training tokens: " + ", ".join(
            f"{arm['arm']} ends at {arm['points'][-1]['loss']:.3f}" for arm in curve["arms"]
        )
        panels.append({"source": curve["source"], "plot": charts.curves(series, frame, described)})
    return panels
