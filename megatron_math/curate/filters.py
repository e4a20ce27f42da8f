r"""Texts that are broken, or of another language: named rules, each a number and a limit.

What the rules count is said in `filters_config`. A dropped record has the rule's name, its number
and the limit; where several rules would drop it, the first one gives the reason and `failed` has
all numbers.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from megatron_math.base.records import Record
from megatron_math.curate.dedup import text_of
from megatron_math.curate.filters_config import FiltersConfig
from megatron_math.curate.language import language_of

_CODE = re.compile(r"^```.*?(?:^```[^\S\n]*$|\Z)|\[asy\].*?\[/asy\]", re.DOTALL | re.MULTILINE)
_MATH = re.compile(r"\\[()\[\]]|\\.|\$", re.DOTALL)
_IS_LATEX = re.compile(r"\\[A-Za-z]|\$[A-Za-z\\]")
# << begins GSM8K's calculator notes; what a formula would go on with is no sum of money
_MONEY = re.compile(
    r"\$(?:<<|-?\d[\d,]*+(?:\.\d+)?+"
    r"(?![$^_{\\=+<>(]|\*(?!\*)|[A-Za-z](?![a-z])|[^\S\n]*[-+/=<>^\\$]|[^\S\n]+\*))"
)
_AT_A_NUMBER = re.compile(r"(?<=\d)\$|(?<=\d )\$|\$(?:<<|[^\S\n]?-?\.?\d)")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(begin|end)[^\S\n]*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+\*?|[^A-Za-z\s])")
_SPACE = re.compile(r"\s+")
# UTF-8 that was read as Windows-1252 or Latin-1, once or twice, and what no decoder could read
_MOJIBAKE = re.compile(
    "\ufffd|[\u0080-\u0084\u0086-\u009f]"
    "|[\u00c2-\u00c5\u00ce\u00cf\u00d0\u00d1][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d"
    "\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac"
    "\u2122]"
    "|\u00e2[\u0080-\u009f\u20ac][\u0080-\u00bf\u0153\u017e\u02dc\u2013\u2014\u2018-\u201e\u2020-"
    "\u2022\u2026\u2030\u2039\u203a\u2122]"
    "|[\u00e3-\u00e9](?:[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6"
    "\u02dc\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]){2}"
    "|\u00ef\u00bb\u00bf"
)
_PARTNER = {r"\)": r"\(", r"\]": r"\["}


class Filters:
    """A sieve of the rules that are switched on."""

    def __init__(self, config: FiltersConfig) -> None:
        self._language = config.language
        limits = {name: getattr(config, name) for name in RULES}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        return [self.drop(text_of(record)) for record in records]

    def drop(self, text: str) -> dict[str, Any] | None:
        """What a text that must go gets written beside it, or None."""
        prose = _CODE.sub("", text) if "```" in text or "[asy]" in text else text
        found = {name: RULES[name](text if name == "mojibake" else prose) for name in self._limits}
        failed = {name: value for name, value in found.items() if value > self._limits[name]}
        if failed:
            rule = next(iter(failed))
            said = {name: round(value, 4) for name, value in failed.items()}
            return {
                "reason": f"filter {rule}",
                "value": said[rule],
                "limit": self._limits[rule],
                "failed": said,
            }
        if self._language is None:
            return None
        language, share = language_of(prose)
        if language in self._language.keep or (
            language is None and self._language.unknown == "keep"
        ):
            return None
        name = language or "unknown"
        return {"reason": "filter language", "value": name, "share": round(share, 4)}


def lonely_math(text: str) -> float:
    """Paragraphs with an odd number of $, and other delimiters without a partner.

    A text without LaTeX has sums of money only, as has a paragraph where every $ is at a number.
    Any other paragraph passes when its $ are even in number with or without those that begin a sum
    of money: "$3 + 4$" and "of $x$ it costs $3" are whole.
    """
    if "$" not in text and "\\" not in text:
        return 0
    is_latex = _IS_LATEX.search(text) is not None
    count = 0
    opened: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        dollars = money = at_number = 0
        for match in _MATH.finditer(paragraph):
            sign = match[0]
            if sign == "$":
                dollars += 1
                money += _MONEY.match(paragraph, match.start()) is not None
                at_number += _AT_A_NUMBER.match(paragraph, match.start()) is not None
            elif sign in (r"\(", r"\["):
                opened.append(sign)
            elif sign in _PARTNER:
                if opened and opened[-1] == _PARTNER[sign]:
                    opened.pop()
                else:
                    count += 1
        if is_latex and at_number < dollars:
            count += dollars % 2 and (dollars - money) % 2
    return count + len(opened)


def lonely_braces(text: str) -> float:
    """Braces without a partner; \\{ and \\} are signs and do not count."""
    if "{" not in text and "}" not in text:
        return 0
    depth = count = 0
    for match in _BRACES.finditer(text):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            if depth:
                depth -= 1
            else:
                count += 1
    return count + depth


def lonely_environments(text: str) -> float:
    """\\begin and \\end without a partner of the same name."""
    count = 0
    opened: list[str] = []
    for kind, name in _ENVIRONMENT.findall(text):
        if kind == "begin":
            opened.append(name)
        elif name in opened:
            while opened.pop() != name:
                count += 1
        else:
            count += 1
    return count + len(opened)


def command_share(text: str) -> float:
    """Of the characters that are no white space, those of LaTeX commands."""
    if "\\" not in text:
        return 0.0
    inked = len(_SPACE.sub("", text))
    return sum(len(match) for match in _COMMAND.findall(text)) / inked if inked else 0.0


def mojibake_share(text: str) -> float:
    """Of the characters, those of sequences that only a wrong decoder writes."""
    if text.isascii():
        return 0.0
    return sum(len(match) for match in _MOJIBAKE.findall(text)) / len(text)


def repeated_share(text: str) -> float:
    """Of the characters in lines, white space around them aside, those of lines met before."""
    seen: set[str] = set()
    whole = again = 0
    for line in text.split("\n"):
        bare = line.strip()
        whole += len(bare)
        if bare in seen:
            again += len(bare)
        seen.add(bare)
    return again / whole if whole else 0.0


RULES: dict[str, Callable[[str], float]] = {
    "math": lonely_math,
    "braces": lonely_braces,
    "environments": lonely_environments,
    "commands": command_share,
    "mojibake": mojibake_share,
    "repeated_lines": repeated_share,
}
