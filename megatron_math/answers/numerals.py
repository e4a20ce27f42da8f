"""Numbers in words: "twenty-one apples", "two thirds", 三分之二, 百分之五, 一百零五个, 3.5万.

Only a number that begins the text is read; what follows it (a unit) stays. Linear in the text.
"""

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=2)
}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10,
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")
_GAP = re.compile(r"[\s-]+")

_DIGITS = {character: digit for digit, character in enumerate("零一二三四五六七八九")} | {
    "〇": 0, "两": 2, "○": 0,
}  # fmt: skip
_PLACES = {"十": 10, "百": 100, "千": 1000}
_GROUPS = {"万": 10**4, "亿": 10**8}
_NUMERAL = "[零〇○一二两三四五六七八九十百千万亿]+"
_MIXED = rf"(?:{_NUMERAL}|\d+(?:\.\d+)?)"
_FRACTION = re.compile(rf"(负|-)?({_MIXED})分之({_MIXED})")
_CHINESE = re.compile(rf"(负)?({_NUMERAL})(?:点([零〇○一二三四五六七八九]+))?")
_GROUPED = re.compile(r"(-?\d+(?:\.\d+)?)([万亿])")


def english_to_digits(text: str) -> str:
    """The number words that `text` begins with as digits, and whatever follows."""
    place, minus = 0, ""
    if match := re.match(r"(?:minus|negative)\s+", text, re.IGNORECASE):
        place, minus = match.end(), "-"
    total = group = 0
    found = last_small = False
    while match := _WORD.match(text, place):
        word = match[0].lower()
        if word in _SMALL and not (last_small and not (group % 100 >= 20 and _SMALL[word] < 10)):
            group, last_small = group + _SMALL[word], True
        elif word == "hundred" and 0 < group < 10:
            group, last_small = 100 * group, False
        elif word in _LARGE and group:
            total, group, last_small = total + group * _LARGE[word], 0, False
        elif word == "and" and found and not last_small and _next_is_small(text, match.end()):
            pass
        else:
            break
        found, end = True, match.end()
        gap = _GAP.match(text, end)
        place = gap.end() if gap else end
        if gap is None:
            break
    match = _WORD.match(text, place)
    part = _PARTS.get(match[0].lower().removesuffix("s")) if match else None
    if match and match[0].lower() in ("half", "halves"):
        part = 2
    if match and part and (found or part == 2) and not text[match.end() :].strip():
        return f"{minus}{total + group if found else 1}/{part}"
    if not found:
        return text
    return f"{minus}{total + group}{text[end:]}"


def _next_is_small(text: str, place: int) -> bool:
    match = re.compile(r"\s+([A-Za-z]+)").match(text, place)
    return match is not None and match[1].lower() in _SMALL


def chinese_to_digits(text: str) -> str:
    """The Chinese numeral that `text` begins with as digits, and whatever follows."""
    if text in ("一半", "半"):
        return "1/2"
    text = re.sub(rf"^第(?={_NUMERAL}|\d)", "", text)
    if match := _FRACTION.match(text):
        sign, bottom, top = match.groups()
        minus, rest = "-" if sign else "", text[match.end() :]
        if bottom == "百":
            return f"{minus}{_plain(top)}%{rest}"
        return f"{minus}{_plain(top)}/{_plain(bottom)}{rest}"
    if match := _CHINESE.match(text):
        minus = "-" if match[1] else ""
        decimals = "".join(str(_DIGITS[character]) for character in match[3] or "")
        return f"{minus}{_plain(match[2])}{'.' if decimals else ''}{decimals}{text[match.end() :]}"
    if match := _GROUPED.match(text):
        zeros = {"万": 4, "亿": 8}[match[2]]
        whole, _, decimals = match[1].partition(".")
        moved = whole + decimals[:zeros].ljust(zeros, "0")
        rest = decimals[zeros:]
        return moved + (f".{rest}" if rest else "") + text[match.end() :]
    return text


def _plain(numeral: str) -> str:
    """A numeral as digits; 二〇二四 is read digit by digit."""
    if numeral[0].isascii():
        return numeral
    if not set(numeral) & (set(_PLACES) | set(_GROUPS)):
        return str(int("".join(str(_DIGITS[character]) for character in numeral)))
    total = section = digit = 0
    for character in numeral:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character in _PLACES:
            section += (digit or 1) * _PLACES[character]
            digit = 0
        else:
            total = (total + section + digit) * _GROUPS[character]
            section = digit = 0
    return str(total + section + digit)
