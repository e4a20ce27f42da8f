"""A study's facts as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_math.study.scores import LOSS

Facts = Mapping[str, Any]
MOST_MISSING = 8
"""Roads without a result that are named."""


def render(facts: Facts) -> Group:
    """Arms by metric, comparisons with their verdicts, shares of gains, what is missing."""
    parts: list[Any] = [_arms(facts)]
    if facts["compare"]:
        parts.append(_comparisons(facts))
    parts += [_gain(found) for found in facts["gains"]]
    missing = [f"missing: {key} ({why})" for key, why in facts["missing"].items()]
    if len(missing) > MOST_MISSING:
        missing[MOST_MISSING:] = [f"and {len(missing) - MOST_MISSING} more; results.json has all"]
    return Group(*parts, *map(escape, missing))


def _arms(facts: Facts) -> Table:
    percent = f"{facts['confidence']:.0%}"
    title = f"{facts['name']}: means over seeds, {percent} intervals over seeds and items"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    for metric in facts["metrics"]:
        table.add_column(escape(metric), justify="right")
    table.add_column("seeds x items", justify="right")
    for name, arm in facts["arms"].items():
        found = [arm["metrics"].get(metric) for metric in facts["metrics"]]
        first = next((one for one in found if one is not None), None)
        size = "-" if first is None else f"{first['seeds']} x {first['items']}"
        cells = [_cell(one, metric) for one, metric in zip(found, facts["metrics"], strict=True)]
        table.add_row(name, *cells, size)
    return table


def _comparisons(facts: Facts) -> Table:
    table = Table(
        title="paired differences", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in ("claim", "difference", "metric"):
        table.add_column(name)
    for name in ("mean", "interval", "p", "p by signs of seeds", "expected", "seen"):
        table.add_column(name, justify="right")
    for found in facts["compare"]:
        scale, digits = _scale(found["metric"])
        table.add_row(
            escape(found["claim"]),
            found["name"],
            escape(found["metric"]),
            f"{scale * found['mean']:+.{digits}f}",
            f"{scale * found['low']:+.{digits}f} to {scale * found['high']:+.{digits}f}",
            f"{found['p']:.3g}",
            "-" if found["p_seeds"] is None else f"{found['p_seeds']:.3g}",
            found["expect"],
            found["verdict"],
        )
    return table


def _gain(found: Facts) -> str:
    share = found["share"]
    if share["mean"] is None:
        told = "nothing to take a share of"
    elif share["low"] is None or share["high"] is None:
        told = f"{share['mean']:.2f} (no bounds: the gain below may be nothing)"
    else:
        told = f"{share['mean']:.2f} ({share['low']:.2f} to {share['high']:.2f})"
    claim = f"{found['claim']}: " if found["claim"] else ""
    return escape(f"{claim}{found['name']} in {found['metric']}: {told}")


def _cell(found: Facts | None, metric: str) -> str:
    if found is None:
        return "-"
    scale, digits = _scale(metric)
    mean, low, high = (scale * found[key] for key in ("mean", "low", "high"))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _scale(metric: str) -> tuple[float, int]:
    """Shares are shown in percent."""
    return (1.0, 3) if metric.startswith(LOSS) else (100.0, 1)
