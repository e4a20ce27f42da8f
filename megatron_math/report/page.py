"""Facts into one HTML file: words, figures, plots. Reads page.html and page.css beside it."""

import itertools
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from megatron_math.report import charts
from megatron_math.report.environment import render
from megatron_math.report.figures import large, percent

LONGEST_GROUP = 8  # a finer division is folded away


def render_page(facts: dict[str, Any]) -> str:
    """The whole page; it refers to no other file but those of its run."""
    return render(
        "page.html",
        facts,
        loss_panels=loss_panels,
        course_panels=course_panels,
        score_bars=score_bars,
        share_bar=share_bar,
        time_bars=time_bars,
        groups_of=groups_of,
        LONGEST_GROUP=LONGEST_GROUP,
    )


def groups_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """Score rows by what they divide by: the whole first, then `level`, `operands_seen`, ..."""
    return [(by, list(members)) for by, members in itertools.groupby(rows, lambda row: row["by"])]


def loss_panels(training: dict[str, Any]) -> list[dict[str, Any]]:
    """One plot a source, all on the same axes, so that panels can be compared by eye."""
    curves = training["curves"]
    losses = [p["loss"] for c in curves for kind in ("train", "validation") for p in c[kind]]
    if not losses:
        return []
    frame = charts.Frame(
        x=(0, training["tokens"]),
        y=charts.spread(min(losses), max(losses)),
        write_x=large,
        write_y=lambda value: f"{value:g}",
        unit_x="tokens",
    )
    return [
        {"curve": curve, "plot": _loss_panel(curve, frame, _marks(training))} for curve in curves
    ]


def _loss_panel(
    curve: dict[str, Any], frame: charts.Frame, marks: Sequence[tuple[float, str]]
) -> Markup:
    series = [
        charts.Series(
            Markup("{}").format(label),
            [(point["tokens"], point["loss"]) for point in curve[kind]],
            style,
            dots=kind == "validation",
        )
        for kind, label, style in (
            ("train", "train", "quiet"),
            ("validation", "held out", "accent"),
        )
    ]
    description = f"Loss of {curve['source']} over training tokens."
    if curve["first_validation"] is not None:
        description += (
            f" Held out: from {curve['first_validation']:.3f} to {curve['last_validation']:.3f}."
        )
    if curve["last_train"] is not None:
        description += f" Train, at the end: {curve['last_train']:.3f}."
    return charts.curves(series, frame, description, marks)


def _marks(training: dict[str, Any]) -> list[tuple[float, str]]:
    """Where a stage of the plan begins, when there is more than one."""
    stages = training["stages"]
    return [(s["from_tokens"], s["stage"]) for s in stages] if len(stages) > 1 else []


def course_panels(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Plots of speed, learning rate and gradient norm over the run."""
    panels = []
    for name, title, write in (
        ("tokens_per_second", "Tokens per second", large),
        ("learning_rate", "Learning rate", "{:g}".format),
        ("grad_norm", "Gradient norm", "{:.3g}".format),
    ):
        points = [(row["tokens"], row[name]) for row in training["course"] if row[name] is not None]
        if not points:
            continue
        high = max(value for _, value in points)
        frame = charts.Frame((0, training["tokens"]), (0, high * 1.06 or 1), large, write, "tokens")
        described = f"{title}: from {points[0][1]:.3g} to {points[-1][1]:.3g}."
        series = charts.Series(Markup(""), points, "accent")
        plot = charts.curves([series], frame, described, _marks(training))
        panels.append({"title": title, "plot": plot})
    return panels


def score_bars(row: dict[str, Any]) -> Markup:
    """Before (grey) over after (accent), with their intervals."""
    bars, told = [], []
    for who, style in (("before", "quiet"), ("after", "accent")):
        score = row[who]
        bars.append((style, score and score["accuracy"], score["interval95"] if score else ()))
        told.append(f"{who} {percent(score['accuracy']) if score else 'missing'}")
    return charts.score_bars(bars, ", ".join(told))


def share_bar(source: dict[str, Any], stage: dict[str, Any]) -> Markup:
    shares = [s[key] or 0 for s in stage["sources"] for key in ("share_asked", "share_realised")]
    asked, realised = source["share_asked"], source["share_realised"]
    told = f"realised {percent(realised)}" + ("" if asked is None else f", asked {percent(asked)}")
    return charts.share_bar(asked, realised, max(*shares, 1e-9), told)


def time_bars(stages: Sequence[dict[str, Any]]) -> list[Markup]:
    """One bar a stage, each beginning where the one before ended."""
    total, start, bars = sum(stage["seconds"] for stage in stages), 0.0, []
    for stage in stages:
        told = f"{stage['stage']}: {stage['seconds']:.1f} seconds"
        bars.append(charts.time_bar(start, stage["seconds"], total, told))
        start += stage["seconds"]
    return bars
