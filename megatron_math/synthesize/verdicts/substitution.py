"""Put the answer back into the problem, where the problem asks to solve one equation.

The equation has one unknown and is the only one in the text; the answer is a number or a list of
numbers. That it lists all solutions is not asked.
"""

import re
from fractions import Fraction

from megatron_math.answers.quantity import parse_quantities, parse_quantity
from megatron_math.synthesize.exact import evaluate
from megatron_math.synthesize.verdicts.symbolic import plain

LONGEST_EQUATION = 200
_SIDE = r"[-+*/^()\d.\s]*(?:(?<![A-Za-z])[a-z](?![A-Za-z])[-+*/^()\d.\s]*)*"
_EQUATION = re.compile(rf"(?<![A-Za-z=<>])({_SIDE})=(?!=)({_SIDE})(?![A-Za-z=])")
_ASKS = re.compile(
    r"\bsolve\b|解方程|解下列|\b(?:find|what\s+is|determine|value\s+of|for)\s+(?:the\s+value\s+of\s+)?"
    r"([a-z])(?![A-Za-z0-9])(?!\s*[-+*/^(])|求\s*([a-z])(?![A-Za-z0-9])(?!\s*[-+*/^(])",
    re.IGNORECASE,
)


def answer_solves(problem: str, answer: str | None) -> bool | None:
    """Whether the answer makes both sides of the problem's equation equal; None: not applicable."""
    text = plain(problem)
    asked = _ASKS.search(text)
    equations = [match for match in _EQUATION.finditer(text) if re.search("[a-z]", match[0])]
    if asked is None or len(equations) != 1 or answer is None or text.count("=") != 1:
        return None
    equation = equations[0]
    unknowns = set(re.findall("[a-z]", equation[0]))
    named = {name for name in asked.groups() if name}
    values = _numbers(answer)
    if len(unknowns) != 1 or (named and named != unknowns) or not values:
        return None
    unknown = unknowns.pop()
    try:
        return all(
            _side(equation[1], unknown, value) == _side(equation[2], unknown, value)
            for value in values
        )
    except ValueError:
        return None


def _side(side: str, unknown: str, value: Fraction) -> Fraction:
    if len(side) > LONGEST_EQUATION:
        raise ValueError("too long")
    side = side.strip(" .\n")
    side = re.sub(r"\d*\.\d+", lambda decimal: f"({Fraction(decimal[0])})", side)
    side = re.sub(rf"(?<=[\d)])\s*(?={unknown})", "*", side).replace(unknown, f"({value})")
    return evaluate(re.sub(r"(?<=[\d)])\s*(?=\()", "*", side))


def _numbers(answer: str) -> list[Fraction]:
    parts = re.split(r"\s*(?:,|;|\bor\b|\band\b|，|或|和)\s*", answer.strip().strip("$"))
    one = parse_quantity(answer)
    if one is not None:
        return [one.value]
    many = parse_quantities(answer) or [found for part in parts if (found := parse_quantity(part))]
    return [quantity.value for quantity in many] if len(many) >= len(parts) else []
