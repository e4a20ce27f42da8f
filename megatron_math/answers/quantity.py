"""Read an answer as an exact number with a unit, or as a list of numbers.

Everything is exact (`Fraction`), bounded in size and linear in time: an answer is untrusted text.
"""

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from megatron_math.answers.rules import ALL_STEPS
from megatron_math.answers.steps import tidy
from megatron_math.answers.units import is_known, read_unit

# Longer strings of digits are no final answers, and int() of a million digits takes minutes.
MAX_NUMBER_CHARACTERS = 200
# 10^308 is what a float holds; exponents beyond it are left to algebra, which is bounded otherwise.
MAX_EXPONENT = 308

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>[$€£¥]?)\s*(?P<sign_>[-+]?)(?:
        (?:(?P<whole>\d+)\s*)?\\frac
            \s*(?:\{{\s*(?P<top>[-+]?\s*(?:{_DECIMAL}))\s*\}}|(?P<top_>\d))
            \s*(?:\{{\s*(?P<bottom>{_DECIMAL})\s*\}}|(?P<bottom_>\d))
        | (?:(?P<whole__>\d+)\s+)?(?P<top__>{_DECIMAL})\s*/\s*(?P<bottom__>{_DECIMAL})
        | (?P<decimal>{_DECIMAL})
            (?:\s*(?:\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*
                \{{?\s*(?P<power>[-+]?\d{{1,3}})\s*\}}?|[eE](?P<power_>[-+]?\d{{1,3}}))?
    )\s*(?P<unit>%|°(?:\s*[CF])?|[$€£¥]|(?:(?<=\s)|(?<=\}}))[A-Za-z].*|[A-Za-z]{{2,}}\S*|[\u4e00-\u9fff].*)?""",
    re.VERBOSE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+|[\u4e00-\u9fff]+)")
_COMPOUND = re.compile(rf"{_PART.pattern}(?:,?\s*(?:and\s+)?{_PART.pattern})+")


@dataclass(frozen=True)
class Quantity:
    """An exact value; `kind` is what its unit measures ("" for none or an unknown one)."""

    value: Fraction
    kind: str = ""
    size: Fraction = Fraction(1)
    is_decimal: bool = True
    places: int = 0
    """Digits behind the decimal point."""

    def equals(self, other: "Quantity") -> bool:
        """Exact equality; a missing unit may be understood, a known one counts.

        A percentage equals its number with the sign left out, and its true value (50 % = 0.5);
        a dozen may be counted as one or as twelve.
        """
        if self.kind and other.kind:
            return self.kind == other.kind and self.value * self.size == other.value * other.size
        if self.value == other.value:
            return True
        if "number" in (self.kind, other.kind):
            return self.value * self.size == other.value * other.size
        return (self.kind == "percent" and self.value / 100 == other.value) or (
            other.kind == "percent" and other.value / 100 == self.value
        )


def parse_quantity(text: str, steps: frozenset[str] = ALL_STEPS) -> Quantity | None:
    """`text` as one exact number with an optional unit; None when it is anything else."""
    text = tidy(text, steps) if len(text) <= 4 * MAX_NUMBER_CHARACTERS else ""
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_NUMBER_CHARACTERS else None
    if match is None or (match["sign"] and match["sign_"]):
        return _compound(text)
    following = (match["unit"] or "").removeprefix(r"\ ")
    unit = read_unit(following)
    value = _read_value(match)
    if unit is None or value is None:
        return _compound(text)
    is_word = following.isascii() and following[:1].isalpha()
    is_attached = is_word and text[match.start("unit") - 1] != " "
    if is_attached and not is_known(re.split(r"[\^/ ]", following)[0]):
        return None  # 5x is no number, 5cm is one
    kind, size = unit.kind, unit.size
    if match["currency"] and not kind:
        currency = read_unit(match["currency"])
        assert currency is not None
        kind, size = currency.kind, currency.size
    decimal = match["decimal"]
    places = len(decimal.partition(".")[2]) if decimal else 0
    return Quantity(value * unit.scale, kind, size, decimal is not None, places)


def _compound(text: str) -> Quantity | None:
    """5 ft 3 in, 3小时30分钟: parts of one kind, each smaller than the one before."""
    if len(text) > MAX_NUMBER_CHARACTERS or not _COMPOUND.fullmatch(text):
        return None
    parts = [(Fraction(n), read_unit(unit)) for n, unit in _PART.findall(text)]
    units = [unit for _, unit in parts if unit is not None and unit.kind]
    sizes = [unit.size for unit in units]
    if len(units) != len(parts) or len({unit.kind for unit in units}) != 1:
        return None
    if any(second >= first for first, second in itertools.pairwise(sizes)):
        return None
    total = sum(
        (value * size for (value, _), size in zip(parts, sizes, strict=True)), start=Fraction(0)
    )
    return Quantity(total / sizes[-1], units[0].kind, sizes[-1])


def _read_value(match: re.Match[str]) -> Fraction | None:
    sign = -1 if "-" in (match["sign"], match["sign_"]) else 1
    if match["decimal"]:
        power = int(match["power"] or match["power_"] or 0)
        if abs(power) > MAX_EXPONENT:
            return None
        return sign * _decimal(match["decimal"]) * Fraction(10) ** power
    whole = match["whole"] or match["whole__"]
    top = _decimal(match["top"] or match["top_"] or match["top__"])
    bottom = _decimal(match["bottom"] or match["bottom_"] or match["bottom__"])
    if bottom == 0 or (whole and not 0 <= top < bottom):
        return None
    return sign * (int(whole or 0) + top / bottom)


def _decimal(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text + "0" if text.endswith(".") else text)


def parse_quantities(text: str, steps: frozenset[str] = ALL_STEPS) -> list[Quantity] | None:
    """A list such as "2 and 5", "x = 2 or x = 5", "1, 2, 3": at least two numbers, else None."""
    text = tidy(text, steps) if len(text) <= 4 * MAX_NUMBER_CHARACTERS else ""
    if re.search(r"[()\[\]]", text):
        return None  # a tuple, interval or vector: order and brackets matter
    parts = re.split(r"\s*[,;]\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+|\s*[或和]\s*", text)
    numbers = [parse_quantity(part, steps) for part in parts]
    if len(parts) < 2 or any(number is None for number in numbers):
        return None
    return [number for number in numbers if number is not None]
