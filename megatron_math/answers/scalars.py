"""Are two expressions one number, or one function? Values decide; SymPy where they cannot.

Exact arithmetic first, then 120 digits at places that depend on the texts. Only killable processes
come here.
"""

from fractions import Fraction
from typing import Any

import mpmath

from megatron_math.answers.nodes import Node, UnreadableError, call
from megatron_math.answers.rules import Rules
from megatron_math.answers.value import (
    DIFFERENT,
    EQUAL,
    InexactError,
    Point,
    TooLargeError,
    UndefinedError,
    exact,
    letters,
    numeric,
    points,
)

# A decimal with so many places may stand for the number that it rounds.
ROUNDED_PLACES = 6
TOLERANCE = mpmath.mpf("1e-4")
_SMALLEST = mpmath.mpf("1e-40")


class Scalars:
    """Compares trees that have one value."""

    def __init__(self, rules: Rules, seed: str) -> None:
        self._checks = rules.checks
        self._seed = seed

    def same(self, answer: Node, reference: Node) -> bool | None:
        """True, False, or None where even SymPy cannot tell."""
        if _infinite(answer) or _infinite(reference):
            return _infinite(answer) == _infinite(reference)
        if "base" in (answer.name, reference.name):
            return _same_digits(answer, reference)
        names = letters(answer) | letters(reference)
        verdicts = []
        for point in points(names, self._seed):
            verdicts.append(self._same_at(answer, reference, point, is_constant=not names))
            if verdicts[-1] is False or not names:
                break
        if False in verdicts:
            return False
        if None not in verdicts:
            return True
        return self._by_sympy(answer, reference)

    def proportional(self, first: Node, second: Node, *, positive: bool = False) -> bool | None:
        """Whether one function is the other times a constant that is not zero."""
        names = letters(first) | letters(second)
        if not names:
            return None
        ratios: list[Any] = []
        for point in points(names, self._seed):
            try:
                ratios.append(_ratio(first, second, point))
            except (TooLargeError, UndefinedError):
                continue
        if len(ratios) < 2:
            return None
        if any(_near(ratio, ratios[0]) is False for ratio in ratios[1:]):
            return False
        return not positive or bool(mpmath.re(ratios[0]) > 0)

    def _same_at(
        self, answer: Node, reference: Node, point: Point, *, is_constant: bool
    ) -> bool | None:
        try:
            try:
                first: Any = exact(answer, point)
                second: Any = exact(reference, point)
            except InexactError:
                first, second = numeric(answer, point), numeric(reference, point)
        except TooLargeError:
            return _one_too_large(answer, reference, point)
        except UndefinedError:
            return False if is_constant else None
        verdict = _near(first, second)
        if verdict is False and is_constant:
            return self._is_meant(answer, reference, first, second)
        return verdict

    def _is_meant(self, answer: Node, reference: Node, first: Any, second: Any) -> bool:
        """Whether unequal numbers count as one: a rounded decimal, or a rule says so."""
        first, second = _float(first), _float(second)
        if "rounding" in self._checks:
            for one, other in ((answer, reference), (reference, answer)):
                places = _places(one)
                if places >= ROUNDED_PLACES and _places(other) < 0:
                    return bool(abs(first - second) <= mpmath.mpf(10) ** -places)
        if "tolerance" in self._checks:
            factors = (1, 100, 0.01) if "percent any" in self._checks else (1,)
            return any(
                abs(first - second * factor) <= TOLERANCE * abs(second * factor)
                for factor in factors
            )
        return False

    def _by_sympy(self, answer: Node, reference: Node) -> bool | None:
        from megatron_math.answers.symbolic import is_zero

        try:
            return is_zero(call("add", answer, call("negative", reference)))
        except UnreadableError:
            return None


def _near(first: Any, second: Any) -> bool | None:
    """Exact numbers are compared exactly, others to 60 digits; None in between."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    with mpmath.workprec(400):
        first, second = _float(first), _float(second)
        distance = abs(first - second) / max(abs(first), abs(second), _SMALLEST)
        if distance <= EQUAL:
            return True
        return False if distance > DIFFERENT else None


def _float(value: Any) -> Any:
    if isinstance(value, Fraction):
        with mpmath.workprec(400):
            return mpmath.mpf(value.numerator) / value.denominator
    return value


def _ratio(first: Node, second: Node, point: Point) -> Any:
    try:
        above, below = exact(first, point), exact(second, point)
        if not above or not below:
            raise UndefinedError("a zero")
        return above / below
    except InexactError:
        numerator, denominator = numeric(first, point), numeric(second, point)
        if abs(numerator) < _SMALLEST or abs(denominator) < _SMALLEST:
            raise UndefinedError("a zero") from None
        with mpmath.workprec(400):
            return numerator / denominator


def _one_too_large(answer: Node, reference: Node, point: Point) -> bool | None:
    """A number that nobody would write out is not one of ordinary size; two of them: who knows."""
    is_large = []
    for node in (answer, reference):
        try:
            try:
                exact(node, point)
            except (InexactError, TooLargeError):
                numeric(node, point)
            is_large.append(False)
        except TooLargeError:
            is_large.append(True)
        except UndefinedError:
            return None
    if is_large == [False, False]:
        return _near(numeric(answer, point), numeric(reference, point))
    return None if all(is_large) else False


def _infinite(node: Node) -> int:
    if node.kind == "constant" and node.name == "infinity":
        return 1
    return -_infinite(node.parts[0]) if node.name == "negative" else 0


def _same_digits(answer: Node, reference: Node) -> bool:
    """A number in another base: its digits, where the base may be left out."""
    if answer.name == reference.name:
        return answer == reference
    based, plain = (answer, reference) if answer.name == "base" else (reference, answer)
    return plain.kind == "number" and plain.value == int(based.parts[0].name)


def _places(node: Node) -> int:
    return _places(node.parts[0]) if node.name == "negative" else node.places
