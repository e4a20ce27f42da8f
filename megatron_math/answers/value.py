"""The value of a tree at a point: exactly where it is rational, to 120 digits where it is not.

Everything is bounded: exact numbers by their bits, powers by their logarithm. What is larger raises
TooLargeError, what has no value UndefinedError. Still, only killable processes come here.
"""

import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from megatron_math.answers.nodes import Node, call

BITS = 20_000
PRECISION_BITS = 400
# exp() of more than this is taken for too large.
MAX_EXPONENT = 1e6
MAX_FACTORIAL = 1_000
# Two values further apart than this (relative) differ; nearer than EQUAL they are the same.
DIFFERENT = mpmath.mpf("1e-12")
EQUAL = mpmath.mpf("1e-60")

Point = Mapping[str, Fraction]


class InexactError(ArithmeticError):
    """The value is no rational number."""


class TooLargeError(ArithmeticError):
    """The value has more digits than anybody would write."""


class UndefinedError(ArithmeticError):
    """There is no value: a division by zero, infinity, a letter of a list."""


def letters(node: Node) -> set[str]:
    """The names of all letters in a tree."""
    if node.kind == "symbol":
        return {node.name}
    return set().union(*(letters(part) for part in node.parts)) if node.parts else set()


def contains(node: Node, name: str) -> bool:
    return node.name == name or any(contains(part, name) for part in node.parts)


def both_signs(node: Node) -> list[Node]:
    """A tree with ± as its two trees; all of ± and ∓ change together."""
    if not contains(node, "pm") and not contains(node, "mp"):
        return [node]
    return [_with_sign(node, "pm"), _with_sign(node, "mp")]


def _with_sign(node: Node, positive: str) -> Node:
    parts = tuple(_with_sign(part, positive) for part in node.parts)
    if node.kind == "call" and node.name in ("pm", "mp"):
        return parts[0] if node.name == positive else call("negative", *parts)
    return Node(node.kind, parts, node.name, node.value, node.places)


def exact(node: Node, point: Point) -> Fraction:
    """The rational value of a tree. Raises InexactError, TooLargeError, UndefinedError."""
    if node.kind == "number":
        return node.value
    if node.kind == "symbol":
        return point[node.name]
    if node.kind != "call":
        raise InexactError(node.name)
    if node.name == "base":
        return _of_base(node)
    values = [exact(part, point) for part in node.parts]
    return _bounded(_exact_call(node.name, values))


def _exact_call(name: str, values: list[Fraction]) -> Fraction:
    match name, values:
        case "add", [a, b]:
            return a + b
        case "multiply", [a, b]:
            return a * b
        case "negative", [a]:
            return -a
        case "divide", [a, b]:
            if b == 0:
                raise UndefinedError("division by zero")
            return a / b
        case "power", [a, b]:
            return _exact_power(a, b)
        case "abs", [a]:
            return abs(a)
        case "floor", [a]:
            return Fraction(a.__floor__())
        case "ceiling", [a]:
            return Fraction(a.__ceil__())
        case "factorial", [a]:
            return Fraction(_factorial(a))
        case "root", [a, b] if b == 1:
            return a
        case "binomial", [a, b]:
            if a.denominator == b.denominator == 1 and 0 <= b <= a <= MAX_FACTORIAL:
                return Fraction(_factorial(a), _factorial(b) * _factorial(a - b))
            raise InexactError("binomial")
    raise InexactError(name)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise InexactError("a root")
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise UndefinedError("a power of zero")
        return base if exponent % 2 or base == 0 else abs(base)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > 2 * BITS:
        raise TooLargeError("a power")
    return base ** int(exponent)


def _factorial(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise InexactError("factorial")
    if value > MAX_FACTORIAL:
        raise TooLargeError("factorial")
    result = 1
    for factor in range(2, int(value) + 1):
        result *= factor
    return result


def _of_base(node: Node) -> Fraction:
    digits, base = (part.name for part in node.parts)
    if not 2 <= int(base) <= 10 or any(int(digit) >= int(base) for digit in digits):
        raise UndefinedError("no such base")
    return Fraction(int(digits, int(base)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
        raise TooLargeError("too many digits")
    return value


def numeric(node: Node, point: Point) -> Any:
    """The value as an mpmath number of PRECISION_BITS, real or complex."""
    with mpmath.workprec(PRECISION_BITS):
        try:
            value = _numeric(node, point)
        except (ZeroDivisionError, ValueError, mpmath.libmp.NoConvergence) as error:
            raise UndefinedError(str(error)) from None
        if not mpmath.isfinite(value):
            raise UndefinedError("not finite")
        return value


def _numeric(node: Node, point: Point) -> Any:
    if node.kind in ("number", "symbol"):
        value = node.value if node.kind == "number" else point[node.name]
        return mpmath.mpf(value.numerator) / value.denominator
    if node.kind == "constant":
        if node.name == "infinity":
            raise UndefinedError("infinity")
        return {"pi": mpmath.pi, "e": mpmath.e}[node.name] + 0 if node.name != "i" else mpmath.j
    if node.kind != "call" or node.name in ("pm", "mp"):
        raise UndefinedError(f"a {node.kind} has no value")
    if node.name == "base":
        return mpmath.mpf(int(_of_base(node)))
    values = [_numeric(part, point) for part in node.parts]
    return _numeric_call(node.name, values)


def _numeric_call(name: str, values: list[Any]) -> Any:
    first = values[0]
    if name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "sinh", "cosh", "tanh"):
        if abs(first) > MAX_EXPONENT:
            raise TooLargeError(name)
        return getattr(mpmath, name)(first)
    match name:
        case "add":
            return first + values[1]
        case "multiply":
            return first * values[1]
        case "negative":
            return -first
        case "divide":
            return first / values[1]
        case "power":
            return _numeric_power(first, values[1])
        case "root":
            return _numeric_root(first, values[1])
        case "ln":
            return mpmath.ln(first)
        case "arcsin" | "arccos" | "arctan":
            return getattr(mpmath, name.replace("arc", "a"))(first)
        case "abs":
            return abs(first)
        case "floor" | "ceiling":
            return getattr(mpmath, name.removesuffix("ing"))(first)
        case "degrees":
            return first * mpmath.pi / 180
        case "factorial":
            return _gamma(first + 1)
        case "binomial":
            return _gamma(first + 1) / (_gamma(values[1] + 1) * _gamma(first - values[1] + 1))
    raise UndefinedError(name)


def _numeric_power(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise UndefinedError("a power of zero")
        return mpmath.mpf(0)
    if abs(exponent) * (abs(mpmath.ln(abs(base))) + 4) > MAX_EXPONENT:
        raise TooLargeError("a power")
    return mpmath.power(base, exponent)


def _numeric_root(value: Any, degree: Any) -> Any:
    """The real root of a negative number where the degree is odd."""
    if degree == 0:
        raise UndefinedError("a root of degree zero")
    is_odd = mpmath.im(degree) == 0 and mpmath.isint(degree) and int(degree) % 2
    if is_odd and mpmath.im(value) == 0 and value < 0:
        return -_numeric_power(-value, 1 / degree)
    return _numeric_power(value, 1 / degree)


def _gamma(value: Any) -> Any:
    if abs(value) > MAX_EXPONENT:
        raise TooLargeError("factorial")
    return mpmath.gamma(value)


def points(names: set[str], seed: str) -> Iterator[Point]:
    """Places to compare functions at: two of positive numbers, then one of negative ones.

    They depend on the texts that are compared, so no text can be written to agree just there.
    """
    draw = random.Random(seed)
    for sign in (1, 1, -1):
        yield {
            name: sign * Fraction(draw.randrange(1_000, 4_000), draw.choice((997, 1009, 1013)))
            for name in sorted(names)
        }
