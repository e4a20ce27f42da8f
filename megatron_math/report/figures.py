"""Numbers as people read them, and as machines do: `<data value="0.4731">47.3 %</data>`.

Every number of the page goes through `Figure`; None becomes the word 'missing', never 0.
"""

import math
from collections.abc import Callable

from markupsafe import Markup

MISSING = Markup('<span class="missing">missing</span>')
THIN_SPACE = "\u202f"
SECONDS_PER = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def figure(value: float | None, kind: str) -> Markup:
    """`value` written as `kind` (a key of KINDS), its exact value kept beside it."""
    if value is None:
        return MISSING
    return Markup('<data value="{}">{}</data>').format(repr(value), KINDS[kind](value))


def percent(value: float) -> str:
    return f"{100 * value:.1f}{THIN_SPACE}%"


def points(value: float) -> str:
    """A difference of two shares, in percentage points, always with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def loss(value: float) -> str:
    return f"{value:.3f}"


def loss_change(value: float) -> str:
    """A difference of two losses, always with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def share(value: float) -> str:
    """A round share such as 95 %."""
    return f"{100 * value:g}{THIN_SPACE}%"


def signed(value: float) -> str:
    """A weight: +1, −0.5."""
    return f"{value:+g}".replace("-", "−")


def count(value: float) -> str:
    """All digits, in groups of three."""
    return f"{value:,.0f}".replace(",", THIN_SPACE)


def large(value: float) -> str:
    """Three digits and a unit: 3.07 M."""
    size = abs(value)
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= factor * 0.9995:
            return f"{value / factor:.3g}{THIN_SPACE}{unit}"
    return f"{value:.3g}"


def small(value: float) -> str:
    """Three digits, with a power of ten where there are many zeros: 6.68e-06, 0.813, 12.4."""
    return f"{value:.3g}"


def duration(value: float) -> str:
    """The two largest units: 3 min 12 s."""
    if value < 10:
        return f"{value:.1f}{THIN_SPACE}s"
    left = round(value)
    parts: list[str] = []
    for unit, size in SECONDS_PER:
        whole, left = divmod(left, size)
        if whole or parts:
            parts.append(f"{whole}{THIN_SPACE}{unit}")
    return " ".join(parts[:2])


KINDS: dict[str, Callable[[float], str]] = {
    "percent": percent,
    "percent_bare": lambda value: f"{100 * value:.1f}",
    "points": points,
    "loss": loss,
    "loss_change": loss_change,
    "share": share,
    "signed": signed,
    "count": count,
    "large": large,
    "small": small,
    "duration": duration,
    "plain": str,
    "times": lambda value: f"{value:.2f}",
}


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers in [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
