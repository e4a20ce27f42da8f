"""Plots without a library: shapes in a stretchable inline SVG, words as HTML over it.

The SVG's box is always 100 x 100 and fills its place at any width; strokes keep their thickness
(`non-scaling-stroke`) and words keep their size, so one drawing serves a desk and a phone. Colours
are classes of page.css: `quiet` (grey) and `accent`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from megatron_math.report.figures import ticks

LABEL_HEIGHT_PX = 16
PLOT_HEIGHT_PX = 190


@dataclass(frozen=True)
class Series:
    """A curve; `dots` marks every point (few, measured one by one) on top of the line."""

    label: Markup
    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Frame:
    """Data ranges of a plot, and how its ticks are written."""

    x: tuple[float, float]
    y: tuple[float, float]
    write_x: Callable[[float], str]
    write_y: Callable[[float], str]
    unit_x: str = ""

    def left(self, x: float) -> float:
        """Percent from the left edge."""
        low, high = self.x
        return 100 * (x - low) / ((high - low) or 1)

    def top(self, y: float) -> float:
        """Percent from the upper edge."""
        low, high = self.y
        return 100 - 100 * (y - low) / ((high - low) or 1)


def spread(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """The range with some air at both ends; never empty."""
    air = (high - low) * share or max(abs(high) * share, 0.5)
    return low - air, high + air


def curves(
    series: Sequence[Series],
    frame: Frame,
    description: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """A plot of `series`, each named at its right end; `marks` are labelled vertical lines."""
    shapes, words = [_line(0, 100, 100, 100, "base")], []
    for y in ticks(*frame.y):
        top = frame.top(y)
        shapes.append(_line(0, top, 100, top, "grid"))
        words.append(_word("tick y", f"top:{top:.2f}%", frame.write_y(y)))
    marks_x = ticks(*frame.x, wanted=3)
    for x in marks_x:
        unit = f" {frame.unit_x}" if x == marks_x[-1] else ""
        words.append(_word("tick x", f"left:{frame.left(x):.2f}%", frame.write_x(x) + unit))
    for x, name in marks:
        left = frame.left(x)
        shapes.append(_line(left, 0, left, 100, "mark"))
        words.append(_word("mark", f"left:{left:.2f}%", name))
    for one in series:
        shapes.append(_curve(one, frame))
    words += _end_labels(series, frame)
    return Markup(
        '<div class="plot" role="img" aria-label="{}" style="height:{}px">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{}</svg>{}</div>'
    ).format(description, PLOT_HEIGHT_PX, Markup("").join(shapes), Markup("").join(words))


def _curve(series: Series, frame: Frame) -> Markup:
    places = [f"{frame.left(x):.2f} {frame.top(y):.2f}" for x, y in series.points]
    if not places:
        return Markup("")
    path = Markup('<path class="curve {}" d="M{}"/>').format(series.style, " L".join(places))
    if not series.dots:
        return path
    # A line of no length with round ends is a dot that no stretching can flatten.
    dots = "".join(f"M{place}h0" for place in places)
    return path + Markup('<path class="dots {}" d="{}"/>').format(series.style, dots)


def _end_labels(series: Sequence[Series], frame: Frame) -> list[Markup]:
    """Names at the curves' ends, pushed apart until none covers another."""
    ends = [(frame.top(one.points[-1][1]), one) for one in series if one.points]
    ends.sort(key=lambda end: end[0])
    gap = 100 * LABEL_HEIGHT_PX / PLOT_HEIGHT_PX
    placed: list[tuple[float, Series]] = []
    for top, one in ends:
        placed.append((max(top, placed[-1][0] + gap) if placed else top, one))
    overflow = max(0.0, placed[-1][0] - 100) if placed else 0.0
    return [
        _word(f"end {one.style}", f"top:{top - overflow:.2f}%", one.label) for top, one in placed
    ]


def score_bars(
    rows: Sequence[tuple[str, float | None, Sequence[float]]], description: str
) -> Markup:
    """Thin bars from 0 to 1, one a row (style, value, interval), the interval as a whisker."""
    height = 100 / len(rows)
    shapes = []
    for number, (style, value, interval) in enumerate(rows):
        if value is None:
            continue
        middle = (number + 0.5) * height
        low, high = (100 * edge for edge in interval)
        shapes.append(_bar(0, middle, 100 * value, 0.56 * height, style))
        shapes.append(_line(low, middle, high, middle, f"whisker {style}"))
        for edge in (low, high):
            reach = 0.2 * height
            shapes.append(_line(edge, middle - reach, edge, middle + reach, f"whisker {style}"))
    return _strip("bars", shapes, description)


def dot(
    value: float,
    interval: tuple[float, float],
    span: tuple[float, float],
    description: str,
    *,
    zero: float | None = None,
) -> Markup:
    """A dot with its interval as a whisker, on an axis of `span`; `zero` is an upright line."""
    frame = Frame(span, (0, 1), str, str)
    left, low, high = (frame.left(x) for x in (value, *interval))
    shapes = [_line(0, 50, 100, 50, "grid")]
    if zero is not None:
        shapes.append(_line(frame.left(zero), 0, frame.left(zero), 100, "base"))
    shapes.append(_line(low, 50, high, 50, "range"))
    shapes.append(Markup(f'<path class="point" d="M{left:.2f} 50h0"/>'))
    return _strip("bars dotted", shapes, description)


def share_bar(
    asked: float | None, realised: float | None, largest: float, description: str
) -> Markup:
    """A bar for what was realised and a tick for what was asked, both against `largest`."""
    shapes = []
    if realised is not None:
        shapes.append(_bar(0, 50, 100 * realised / largest, 56, "accent"))
    if asked is not None:
        left = 100 * asked / largest
        shapes.append(_line(left, 8, left, 92, "target"))
    return _strip("bars one", shapes, description)


def time_bar(start: float, length: float, total: float, description: str) -> Markup:
    """A stage's part of the whole time, placed after the stages before it."""
    left, width = 100 * start / (total or 1), 100 * length / (total or 1)
    return _strip("bars one", [_bar(left, 50, max(width, 0.4), 46, "accent")], description)


def _strip(style: str, shapes: Sequence[Markup], description: str) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(style, description, Markup("").join(shapes))


def _bar(left: float, middle: float, width: float, height: float, style: str) -> Markup:
    return Markup(
        f'<rect class="bar {escape(style)}" x="{left:.2f}" y="{middle - height / 2:.2f}" '
        f'width="{width:.2f}" height="{height:.2f}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup(f'<path class="{escape(style)}" d="M{x1:.2f} {y1:.2f}L{x2:.2f} {y2:.2f}"/>')


def _word(style: str, place: str, text: str | Markup) -> Markup:
    return Markup('<span class="{}" style="{}">{}</span>').format(style, place, text)
