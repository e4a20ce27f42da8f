"""Read an answer as an exact number with a unit, or as a list of numbers; tidy LaTeX away.

Everything is exact (`Fraction`), bounded in size and linear in time: an answer is untrusted text.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

# Longer strings of digits are no final answers, and int() of a million digits takes minutes.
MAX_NUMBER_CHARACTERS = 200

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>[$€£]?)\s*(?:
        (?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>[-+]?\s*(?:{_DECIMAL}))\s*\}}
            \s*\{{\s*(?P<bottom>{_DECIMAL})\s*\}}
        | (?:(?P<whole_>\d+)\s*)?\\frac\s*(?P<top_>\d)\s*(?P<bottom_>\d)
        | (?:(?P<whole__>\d+)\s+)?(?P<top__>{_DECIMAL})\s*/\s*(?P<bottom__>{_DECIMAL})
        | (?P<decimal>{_DECIMAL})
    )\s*(?P<unit>%|°|(?<=\s)[A-Za-z].*)?""",
    re.VERBOSE,
)
_UNIT = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,3}\.?(?:\^\{?[23]\}?)?")
# Words that make what follows a number more than a unit.
_NOT_UNITS = {"and", "or", "pi", "sqrt", "to", "by", "plus", "minus", "times", "over", "mod", "if"}
_UNIT_LETTERS = {"m", "g", "s", "h", "l", "L"}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}

# unit -> (what it measures, its size). Other words (apples, people) measure nothing known and
# are taken as decoration.
_KNOWN_UNITS: dict[str, tuple[str, Fraction]] = {
    alias: (kind, Fraction(size))
    for kind, table in {
        "length": {
            "mm": "1", "millimeter": "1", "cm": "10", "centimeter": "10", "m": "1000",
            "meter": "1000", "metre": "1000", "km": "1000000", "kilometer": "1000000",
        },
        "imperial length": {
            "in": "1", "inch": "1", "inche": "1", "ft": "12", "foot": "12", "feet": "12",
            "yd": "36", "yard": "36", "mi": "63360", "mile": "63360",
        },
        "time": {
            "s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600",
            "hr": "3600", "hour": "3600", "day": "86400", "week": "604800",
        },
        "mass": {"mg": "1", "g": "1000", "gram": "1000", "kg": "1000000", "kilogram": "1000000"},
        "volume": {"ml": "1", "milliliter": "1", "l": "1000", "liter": "1000", "litre": "1000"},
        "money": {"$": "100", "dollar": "100", "cent": "1"},
        "pounds": {"£": "1"},
        "euros": {"€": "1", "euro": "1"},
        "percent": {"%": "1", "percent": "1"},
        "angle": {"°": "1", "degree": "1"},
    }.items()
    for alias, size in table.items()
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """An exact value; `kind` is what its unit measures ("" for none or an unknown one)."""

    value: Fraction
    kind: str = ""
    size: Fraction = Fraction(1)
    is_decimal: bool = True

    def equals(self, other: "Quantity") -> bool:
        """Exact equality; a missing unit may be understood, a known one counts.

        A percentage equals its number with the sign left out, and its true value (50 % = 0.5).
        """
        if self.kind and other.kind:
            return self.kind == other.kind and self.value * self.size == other.value * other.size
        if self.value == other.value:
            return True
        return (self.kind == "percent" and self.value / 100 == other.value) or (
            other.kind == "percent" and other.value / 100 == self.value
        )


_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad)(?![A-Za-z])|\\[!,;: ]|~")


def tidy(text: str) -> str:
    """`text` without LaTeX decoration: math signs, sizing, spacing, text wrappers, final stop."""
    text = text.replace("\u2212", "-").replace("\\$", "$").replace("\\%", "%")
    text = _WRAPPERS.sub(r" \1 ", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z])", "°", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3})", ",", text)
    text = _SPACING.sub(" ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = text.removesuffix(".").strip()
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return re.sub(r"^[A-Za-z]\w?\s*=\s*(?=[^=]+$)", "", text)


def parse_quantity(text: str) -> Quantity | None:
    """`text` as one exact number with an optional unit; None when it is anything else."""
    text = tidy(text) if len(text) <= 4 * MAX_NUMBER_CHARACTERS else ""
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_NUMBER_CHARACTERS else None
    if match is None:
        return None
    unit, scale = _read_unit(match["unit"] or "")
    value = _read_value(match)
    if unit is None or value is None:
        return None
    kind, size = _KNOWN_UNITS.get(match["currency"] or unit, ("", Fraction(1)))
    return Quantity(value * scale, kind, size, match["decimal"] is not None)


def _read_value(match: re.Match[str]) -> Fraction | None:
    sign = -1 if match["sign"] == "-" else 1
    if match["decimal"]:
        return sign * _decimal(match["decimal"])
    for suffix in ("", "_", "__"):
        if match["top" + suffix]:
            whole, top = match["whole" + suffix], _decimal(match["top" + suffix])
            bottom = _decimal(match["bottom" + suffix])
            if bottom == 0 or (whole and not 0 <= top < bottom):
                return None
            return sign * (int(whole or 0) + top / bottom)
    return None


def _decimal(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text + "0" if text.endswith(".") else text)


def _read_unit(text: str) -> tuple[str | None, int]:
    """(unit or None when this is no unit, factor of a scale word before it)."""
    if text in ("", "%", "°"):
        return text, 1
    words = text.rstrip(".").split()
    scale = _SCALES.get(words[0].lower(), 1)
    words = words[1:] if scale > 1 else words
    if not words:
        return "", scale
    if not _UNIT.fullmatch(" ".join(words)) or _NOT_UNITS & {word.lower() for word in words}:
        return None, 1
    if len(words) == 1 and len(words[0]) == 1 and words[0] not in _UNIT_LETTERS:
        return None, 1
    unit = words[0].lower().rstrip(".")
    if len(words) > 1:  # "5 square feet" and "5 miles per hour" are not lengths
        return " ".join(words).lower(), scale
    return (unit if unit in _KNOWN_UNITS else unit.removesuffix("s")), scale


def parse_quantities(text: str) -> list[Quantity] | None:
    """A list such as "2 and 5", "x = 2 or x = 5", "1, 2, 3": at least two numbers, else None."""
    text = tidy(text) if len(text) <= 4 * MAX_NUMBER_CHARACTERS else ""
    if re.search(r"[()\[\]]", text):
        return None  # a tuple, interval or vector: order and brackets matter
    parts = re.split(r"\s*[,;]\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+", text)
    numbers = [parse_quantity(part) for part in parts]
    if len(parts) < 2 or any(number is None for number in numbers):
        return None
    return [number for number in numbers if number is not None]
