"""Compute again what a solution says: every chain such as `48 / 2 = 24`, exactly.

Only sides that are numbers through and through count, with words before the first and behind the
last of them ("She sold 48 / 2 = 24 clips"); what words may change ("half of 48") is left out. All
arithmetic is bounded (`exact`), so no text takes long.
"""

import itertools
import re
from fractions import Fraction

from megatron_math.synthesize.exact import evaluate

LONGEST_SIDE = 200
_CLAUSE = re.compile(
    r"\n|\.(?=\s|$)|[;；，：。]|[,:]\s|\\\\|&|\band\b(?!\s*\(?\d+/\d)"
    r"|\b(?:so|or|then|thus|hence|which|where|since)\b"
    r"|\\(?:quad|qquad|implies|Rightarrow|therefore|because)(?![A-Za-z])"
)
_EQUALS = re.compile(r"(?<![<>!=:])=(?!=)")
_NUMERIC = re.compile(r"[-+*/^().%\d\s]*\d[-+*/^().%\d\s]*")
_BEHIND_WORDS = re.compile(
    r"(?:(?<!\\)\b([A-Za-z]{2,})['’]?\s+|([\u4e00-\u9fff])\s*)([\d(][-+*/^().%\d\s]*)$"
)
_BEFORE_WORDS = re.compile(r"\s*(-?[\d.]+%?)(?:\s+([A-Za-z]+)|\s*([\u4e00-\u9fff]))[^*/^()\d]*")
_UNCLEAR = re.compile(r"/\s*[\d.]+\s*/")  # 60 / 3/4 may mean either
_OPERATOR = re.compile(r"[+*/^]|\d\s*-")
# Beside these a number is a part of something.
_PARTS = frozenset(
    "of times plus minus divided multiplied by over more less than to from percent hundred thousand"  # noqa: SIM905
    " million billion dozen half third quarter x pi sqrt sin cos tan log ln exp mod squared cubed"
    " remainder r per each 倍 的 加 减 乘 除 以 百 千 万 亿 余 成".split()
)


def statements_hold(solution: str) -> bool | None:
    """Whether all chains of numbers hold; None where none can be computed."""
    checked = False
    for chain in chains(solution):
        try:
            sides = [(readings(side), tolerance(side)) for side in chain]
        except ValueError:
            continue
        checked = True
        for (left, left_slack), (right, right_slack) in itertools.pairwise(sides):
            slack = max(left_slack, right_slack)
            if all(abs(a - b) > slack for a, b in itertools.product(left, right)):
                return False
    return True if checked else None


def chains(solution: str) -> list[list[str]]:
    """Neighbouring sides of numbers that the text says are equal."""
    found = []
    for clause in _CLAUSE.split(plain(solution)):
        sides = _EQUALS.split(clause)
        chain: list[str] = []
        for number, side in enumerate(sides):
            expression = _expression(side, number == 0, number == len(sides) - 1)
            if expression is not None:
                chain.append(expression)
            else:
                found.append(chain)
                chain = []
        found.append(chain)
    return [chain for chain in found if len(chain) > 1]


def _expression(side: str, is_first: bool, is_last: bool) -> str | None:
    if len(side) <= LONGEST_SIDE and _NUMERIC.fullmatch(side):
        return side.strip()
    if is_first and (match := _BEHIND_WORDS.search(side[-LONGEST_SIDE:])):
        word, before = (match[1] or match[2]).casefold(), side[: -len(match[3])]
        return None if word in _PARTS or _OPERATOR.search(before) else match[3].strip()
    if is_last and (match := _BEFORE_WORDS.fullmatch(side[:LONGEST_SIDE])):
        return None if (match[2] or match[3]).casefold() in _PARTS else match[1]
    return None


def plain(text: str) -> str:
    """`text` without calculators' marks and currencies, with the operators of Python and ^."""
    text = re.sub(r"<<[^<>]*>>", "", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", text)
    text = re.sub(r"\\boxed\s*\{([^{}]*)\}|\*\*", r"\1", text)
    text = re.sub(r"\\(?:times|cdot|ast)(?![A-Za-z])|[×·∙⋅]", "*", text)
    text = re.sub(r"\\div(?![A-Za-z])|÷", "/", text)
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\[,;! ]|\\[()\[\]]|\\?[$€£¥]", "", text)
    text = text.replace("\\%", "%").replace("\u2212", "-").replace("\u2013", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", text)
    return re.sub(r"(?<=[\d).])\s*[xX]\s*(?=[\d(.])", "*", text)


def readings(side: str) -> list[Fraction]:
    """The values that a side may mean: with a percent sign, 20 and 0.2. Raises ValueError."""
    if _UNCLEAR.search(side):
        raise ValueError(f"{side!r} divides twice")
    side = re.sub(r"\d*\.\d+", lambda decimal: f"({Fraction(decimal[0])})", side)
    if "%" not in side:
        return [evaluate(side)]
    share = re.sub(r"(\d+|\(\d+/\d+\))\s*%", r"(\1/100)", side)
    return [evaluate(share), evaluate(side.replace("%", ""))]


def tolerance(side: str) -> Fraction:
    """A unit of the last digit of a lone decimal, which may be rounded; 0 for anything else."""
    decimal = re.fullmatch(r"-?\d*\.(\d+)%?", side)
    return Fraction(1, 10 ** len(decimal[1])) if decimal else Fraction(0)
