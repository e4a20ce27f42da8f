"""Check a problem by computations that the solution had no part in.

Each claim works on the problem's text and the answer's text, in another way than the solution
got there: an expression stored beside the story, substitution back, brute force, counting. On top,
every arithmetic statement in the solution is read again and must hold.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from megatron_math.answers.extract import extract_answer
from megatron_math.answers.quantity import parse_quantities, parse_quantity
from megatron_math.synthesize.exact import evaluate, numbers_in, statements
from megatron_math.synthesize.problem import Problem


def find_fault(problem: Problem) -> str | None:
    """Why `problem` must not be used, or None. The first words are a stable reason."""
    stated = extract_answer(problem.solution, rules=("stated",)).answer
    if stated != problem.answer or not problem.solution.endswith(f"is {problem.answer}."):
        return f"wrong ending: the solution states {stated!r}, the answer is {problem.answer!r}"
    if fault := problem.claim.fault(problem.text, problem.answer):
        return f"wrong answer: {fault}"
    chains = statements(problem.solution)
    if not chains:
        return "no statement: the solution computes nothing that can be checked"
    for chain in chains:
        try:
            values = {evaluate(side) for side in chain}
        except ValueError as error:
            return f"wrong statement: {error}"
        if len(values) > 1:
            return f"wrong statement: {' = '.join(chain)}"
    return None


def read_value(answer: str) -> Fraction | None:
    """One number in its only accepted spelling (3, -3, 3/4 in lowest terms), else None."""
    quantity = parse_quantity(answer)
    return quantity.value if quantity and str(quantity.value) == answer else None


def _differs(answer: str, expected: Fraction | int) -> str | None:
    if read_value(answer) == expected:
        return None
    return f"{answer} is given, {expected} is expected"


@dataclass(frozen=True)
class Expression:
    """The answer is the value of an expression over exactly the numbers of the text."""

    name: ClassVar[str] = "expression"
    expression: str

    def fault(self, problem: str, answer: str) -> str | None:
        if set(numbers_in(problem)) != set(numbers_in(self.expression)):
            return f"the text does not hold the numbers of {self.expression}"
        return _differs(answer, evaluate(self.expression))


@dataclass(frozen=True)
class Solutions:
    """The answer lists all solutions of a linear or quadratic equation that the text contains."""

    name: ClassVar[str] = "substitution"
    equation: str

    def fault(self, problem: str, answer: str) -> str | None:
        if self.equation not in problem:
            return f"the text does not ask about {self.equation}"
        one = read_value(answer)
        many = parse_quantities(answer)
        values = [one] if one is not None else [quantity.value for quantity in many or []]
        for value in values:
            if difference := self._difference(value):
                return f"x = {value} leaves a difference of {difference}"
        if len(set(values)) != len(values) or len(values) != self._num_solutions():
            return f"{answer} does not list the {self._num_solutions()} solutions"
        return None

    def _difference(self, value: Fraction) -> Fraction:
        x = f"({value})"
        sides = re.sub(r"(?<=\d)x", f"*{x}", self.equation).replace("x", x).split("=")
        return evaluate(sides[0]) - evaluate(sides[1])

    def _num_solutions(self) -> int:
        """From three values of left minus right: its coefficients, then the discriminant."""
        below, middle, above = (self._difference(Fraction(place)) for place in (-1, 0, 1))
        square, linear = (above + below) / 2 - middle, (above - below) / 2
        if square == 0:
            return 1 if linear else 0
        discriminant = linear**2 - 4 * square * middle
        return 0 if discriminant < 0 else 1 if discriminant == 0 else 2


@dataclass(frozen=True)
class Continuation:
    """The answer is term `number` of the sequence in the text, or the sum up to it."""

    name: ClassVar[str] = "iteration"
    number: int
    is_sum: bool = False

    def fault(self, problem: str, answer: str) -> str | None:
        listed = re.search(r"\d+(?:, \d+){2,}", problem)
        if listed is None:
            return "the text lists no terms"
        terms = numbers_in(listed.group())
        differences = {after - before for before, after in itertools.pairwise(terms)}
        ratios = {Fraction(after, before) for before, after in itertools.pairwise(terms)}
        if len(differences) != 1 and len(ratios) != 1:
            return f"{listed.group()} is neither arithmetic nor geometric"
        values = [Fraction(terms[0])]
        while len(values) < self.number:
            last = values[-1]
            values.append(
                last + terms[1] - terms[0] if len(differences) == 1 else last * min(ratios)
            )
        return _differs(answer, sum(values, Fraction(0)) if self.is_sum else values[-1])


@dataclass(frozen=True)
class Shape:
    """The answer is a measure of a polygon or box built from exactly the numbers of the text."""

    name: ClassVar[str] = "measuring"
    measure: Callable[..., Fraction | int]
    sides: tuple[int, ...]

    def fault(self, problem: str, answer: str) -> str | None:
        if sorted(numbers_in(problem)) != sorted(self.sides):
            return f"the text does not hold the lengths {self.sides}"
        return _differs(answer, self.measure(*self.sides))


@dataclass(frozen=True)
class Chance:
    """The answer is the share of favourable ones among equally likely outcomes, all listed."""

    name: ClassVar[str] = "enumeration"
    numbers: tuple[int, ...]
    outcomes: Callable[..., Sequence[object]]
    favourable: Callable[..., bool]

    def fault(self, problem: str, answer: str) -> str | None:
        if sorted(numbers_in(problem)) != sorted(self.numbers):
            return f"the text does not hold the numbers {self.numbers}"
        outcomes = self.outcomes(*self.numbers)
        good = sum(self.favourable(outcome, *self.numbers) for outcome in outcomes)
        return _differs(answer, Fraction(good, len(outcomes)))
