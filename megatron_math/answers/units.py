"""Units: what they measure and how large they are. Words that are no unit are decoration."""

import re
from dataclasses import dataclass
from fractions import Fraction

_UNIT = re.compile(
    r"[A-Za-z]+(?:[ -][A-Za-z]+){0,4}\.?(?:\^\{?[23]\}?)?(?:/[A-Za-z]+(?:\^\{?[23]\}?)?)?"
    r"|[\u4e00-\u9fff/]{1,8}"
)
# Words that make what follows a number more than a unit.
_NOT_UNITS = {
    "and", "or", "pi", "sqrt", "to", "by", "plus", "minus", "times", "over", "mod", "if",
    "theta", "sin", "cos", "tan", "log", "ln", "infinity", "inf", "divided", "choose", "base",
    "is", "are", "not", "but",
}  # fmt: skip
_LETTERS = {"m", "g", "s", "h", "l", "L"}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}

# unit -> (what it measures, its size). Other words (apples, people) measure nothing known.
_KNOWN: dict[str, tuple[str, Fraction]] = {
    alias: (kind, Fraction(size))
    for kind, table in {
        "length": {
            "mm": "1", "millimeter": "1", "millimetre": "1", "毫米": "1", "cm": "10",
            "centimeter": "10", "centimetre": "10", "厘米": "10", "dm": "100", "分米": "100",
            "m": "1000", "meter": "1000", "metre": "1000", "米": "1000", "km": "1000000",
            "kilometer": "1000000", "kilometre": "1000000", "千米": "1000000", "公里": "1000000",
        },
        "imperial length": {
            "in": "1", "inch": "1", "inche": "1", "ft": "12", "foot": "12", "feet": "12",
            "yd": "36", "yard": "36", "mi": "63360", "mile": "63360",
        },
        "time": {
            "s": "1", "sec": "1", "second": "1", "秒": "1", "min": "60", "minute": "60",
            "分钟": "60", "h": "3600", "hr": "3600", "hour": "3600", "小时": "3600",
            "day": "86400", "天": "86400", "week": "604800", "周": "604800",
        },
        "months": {"month": "1", "个月": "1", "year": "12", "yr": "12", "年": "12"},
        "mass": {
            "mg": "1", "milligram": "1", "毫克": "1", "g": "1000", "gram": "1000", "克": "1000",
            "kg": "1000000", "kilogram": "1000000", "千克": "1000000", "公斤": "1000000",
        },
        "imperial mass": {"oz": "1", "ounce": "1", "lb": "16", "pound": "16"},
        "volume": {
            "ml": "1", "milliliter": "1", "millilitre": "1", "毫升": "1", "l": "1000",
            "liter": "1000", "litre": "1000", "升": "1000",
        },
        "imperial volume": {"pint": "1", "quart": "2", "gallon": "8"},
        "money": {"$": "100", "dollar": "100", "usd": "100", "cent": "1"},
        "yuan": {"元": "100", "yuan": "100", "¥": "100", "角": "10"},
        "british money": {"£": "1"},
        "euros": {"€": "1", "euro": "1"},
        "percent": {"%": "1", "percent": "1"},
        "angle": {"°": "1", "degree": "1", "deg": "1", "度": "1"},
        "celsius": {"°C": "1", "° C": "1"},
        "fahrenheit": {"°F": "1", "° F": "1"},
        "number": {"dozen": "12"},
    }.items()
    for alias, size in table.items()
}  # fmt: skip
_WHOLE = {"mph": ("imperial length/time", Fraction(63360, 3600))}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
_CHINESE_POWERS = {"平方": 2, "立方": 3}


@dataclass(frozen=True)
class Unit:
    """`kind` is what it measures ("" for none or an unknown one), `scale` a word before it."""

    kind: str = ""
    size: Fraction = Fraction(1)
    scale: int = 1


def read_unit(text: str) -> Unit | None:
    """The unit in what follows a number; None when it is no unit."""
    if not text:
        return Unit()
    if text in _KNOWN:
        return Unit(*_KNOWN[text])
    words = text.rstrip(".").split()
    if not words:
        return None
    scale = _SCALES.get(words[0].lower(), 1)
    words = words[1:] if scale > 1 else words
    if not words:
        return Unit(scale=scale)
    if not _UNIT.fullmatch(" ".join(words)) or _NOT_UNITS & {word.lower() for word in words}:
        return None
    if len(words) == 1 and len(words[0]) == 1 and words[0] not in _LETTERS and words[0].isascii():
        return None
    return Unit(*_kind_and_size(words), scale=scale)


def is_known(name: str) -> bool:
    """Whether `name` is a unit that measures something known."""
    return _of_one_word(name)[0] != ""


def _kind_and_size(words: list[str]) -> tuple[str, Fraction]:
    text = " ".join(words)
    over = re.split(r"\s+(?:per|an?)\s+|/|每", text, maxsplit=1)
    if len(over) == 2 and all(over):
        (top, top_size), (bottom, bottom_size) = (_of_words(part.split()) for part in over)
        return (f"{top}/{bottom or '?'}", top_size / bottom_size) if top else ("", Fraction(1))
    return _of_words(words)


def _of_words(words: list[str]) -> tuple[str, Fraction]:
    """ "square feet", "cm^2", "feet", 平方米; other runs of words are decoration."""
    if len(words) == 2 and words[0].lower() in _POWERS:
        return _raised(_of_one_word(words[1]), _POWERS[words[0].lower()])
    if len(words) == 2 and words[1].lower() in _POWERS:
        return _raised(_of_one_word(words[0]), _POWERS[words[1].lower()])
    if len(words) != 1:
        return "", Fraction(1)
    word = words[0]
    if match := re.fullmatch(r"(.*)\^\{?([23])\}?", word):
        return _raised(_of_one_word(match[1]), int(match[2]))
    if word[:2] in _CHINESE_POWERS:
        return _raised(_of_one_word(word[2:]), _CHINESE_POWERS[word[:2]])
    return _of_one_word(word)


def _of_one_word(word: str) -> tuple[str, Fraction]:
    word = word.lower().rstrip(".")
    for name in (word, word.removesuffix("s")):
        if name in _WHOLE:
            return _WHOLE[name]
        if name in _KNOWN:
            return _KNOWN[name]
    return "", Fraction(1)


def _raised(unit: tuple[str, Fraction], power: int) -> tuple[str, Fraction]:
    kind, size = unit
    return (f"{kind}^{power}", size**power) if kind else ("", Fraction(1))
