"""Exact arithmetic on text: evaluate an expression, find the statements that a solution makes.

Nothing here knows how problems are written; it reads text and computes with fractions.
"""

import ast
import functools
import operator
import re
from fractions import Fraction

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MOST_BITS = 10_000  # of a power: towers of them would take for ever
_NUMERIC = re.compile(r"[-\d\s+*/^().]+")
# Where one statement ends and the next begins.
_CLAUSE = re.compile(r"\.(?:\s|$)|\n|,\s|;\s|:\s|\band\b|\bso\b|\bor\b")
_BEHIND_WORDS = re.compile(r"[A-Za-z]\s+([\d(][-\d\s+*/^().]*)$")


@functools.lru_cache(maxsize=1 << 16)
def evaluate(expression: str) -> Fraction:
    """The value of + - * / ^ over integers. Raises ValueError for anything else."""
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot evaluate {expression!r}: {error}") from None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power, base = _value(right), _value(left)
            digits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if power.denominator != 1 or abs(power) > 100 or digits * abs(power) > MOST_BITS:
                raise ValueError(f"power {power} is out of bounds")
            return base ** int(power)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            result = _OPERATIONS[type(op)](_value(left), _value(right))
            assert isinstance(result, Fraction)
            return result
    raise ValueError(f"{ast.dump(node)} is not arithmetic")


def numbers_in(text: str) -> list[int]:
    """Every whole number of a text in order; exponents are notation and not counted."""
    return [int(digits) for digits in re.findall(r"(?<![\w^])\d+", text)]


@functools.lru_cache(maxsize=1 << 16)  # one-step solutions repeat under many texts
def statements(solution: str) -> tuple[tuple[str, ...], ...]:
    """Chains of expressions that the text says are equal: "2/4 = 1/2" gives ("2/4", "1/2").

    A side with letters in it is left out, unless words merely lead up to an expression
    ("The area is 3 * 4 = 12"); a chain needs two neighbouring sides of numbers.
    """
    chains = []
    for clause in _CLAUSE.split(solution):
        if "=" not in clause:
            continue
        chain: list[str] = []
        for side in clause.split("="):
            expression = _expression(side)
            if expression is not None:
                chain.append(expression)
                continue
            if len(chain) > 1:
                chains.append(tuple(chain))
            chain = []
        if len(chain) > 1:
            chains.append(tuple(chain))
    return tuple(chains)


def _expression(side: str) -> str | None:
    side = side.strip()
    if _NUMERIC.fullmatch(side) and any(character.isdigit() for character in side):
        return side
    behind = _BEHIND_WORDS.search(side)
    return behind.group(1).strip() if behind else None
