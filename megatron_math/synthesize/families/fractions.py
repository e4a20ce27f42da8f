"""Fractions: sums and differences, products, a part of a number, lowest terms."""

import math
import random
from collections.abc import Callable
from fractions import Fraction

from megatron_math.synthesize.checks import Expression
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

_ASK = ("What is {}?", "Compute {}.", "Calculate {}.", "Work out {}.", "Find {} in lowest terms.")


def _draw_proper(rng: random.Random) -> tuple[int, int]:
    """A fraction between 0 and 1 in lowest terms, denominator to 12."""
    while True:
        bottom = rng.randint(2, 12)
        top = rng.randint(1, bottom - 1)
        if math.gcd(top, bottom) == 1:
            return top, bottom


def _draw_two(rng: random.Random) -> Operands:
    return (*_draw_proper(rng), *_draw_proper(rng))


def _draw_two_falling(rng: random.Random) -> Operands:
    while True:
        a, b, c, d = _draw_two(rng)
        if a * d > b * c:
            return a, b, c, d


def _reduced(top: int, bottom: int) -> str:
    divisor = math.gcd(top, bottom)
    return f"{top // divisor}/{bottom // divisor}" if bottom != divisor else f"{top // divisor}"


def _chain(*sides: str) -> str:
    """`a = b = c`, equal neighbours written once."""
    return " = ".join(side for place, side in enumerate(sides) if side != sides[place - 1])


def _write_sum(sign: int) -> Callable[[random.Random, Operands], Problem]:
    symbol = {1: "+", -1: "-"}[sign]

    def write(rng: random.Random, operands: Operands) -> Problem:
        a, b, c, d = operands
        asked = f"{a}/{b} {symbol} {c}/{d}"
        bottom = math.lcm(b, d)
        left, right = a * (bottom // b), c * (bottom // d)
        total = left + sign * right
        answer = _reduced(total, bottom)
        step = _chain(
            asked, f"{left}/{bottom} {symbol} {right}/{bottom}", f"{total}/{bottom}", answer
        )
        return solved(rng.choice(_ASK).format(asked), [step], answer, operands, Expression(asked))

    return write


def _write_product(rng: random.Random, operands: Operands) -> Problem:
    a, b, c, d = operands
    asked = f"{a}/{b} * {c}/{d}"
    answer = _reduced(a * c, b * d)
    steps = [f"{a} * {c} = {a * c}", f"{b} * {d} = {b * d}"]
    if answer != f"{a * c}/{b * d}":
        steps.append(f"{a * c}/{b * d} = {answer}")
    return solved(rng.choice(_ASK).format(asked), steps, answer, operands, Expression(asked))


def _draw_part(rng: random.Random) -> Operands:
    top, bottom = _draw_proper(rng)
    return top, bottom, bottom * rng.randint(2, 12)


def _write_part(rng: random.Random, operands: Operands) -> Problem:
    top, bottom, whole = operands
    text = rng.choice(
        (
            "What is {} of {}?",
            "Find {} of {}.",
            "Compute {} of {}.",
            "A class reads {} of a book with {} pages. How many pages is that?",
            "How much is {} of {}?",
        )
    ).format(f"{top}/{bottom}", whole)
    share = whole // bottom
    steps = [f"{whole} / {bottom} = {share}", f"{top} * {share} = {top * share}"]
    claim = Expression(f"{whole} * {top} / {bottom}")
    return solved(text, steps, top * share, operands, claim)


def _draw_reducible(rng: random.Random) -> Operands:
    top, bottom = _draw_proper(rng)
    factor = rng.randint(2, 9)
    return top * factor, bottom * factor


def _write_lowest(rng: random.Random, operands: Operands) -> Problem:
    top, bottom = operands
    text = rng.choice(
        (
            "Write {} in lowest terms.",
            "Simplify {}.",
            "Reduce {} to lowest terms.",
            "What is {} in lowest terms?",
        )
    ).format(f"{top}/{bottom}")
    divisor = math.gcd(top, bottom)
    answer = Fraction(top // divisor, bottom // divisor)
    steps = [
        f"{top} / {divisor} = {top // divisor}",
        f"{bottom} / {divisor} = {bottom // divisor}",
    ]
    return solved(text, steps, answer, operands, Expression(f"{top}/{bottom}"))


FAMILIES = (
    Family("fraction_add", 2, 1, _draw_two, _write_sum(1)),
    Family("fraction_subtract", 2, 1, _draw_two_falling, _write_sum(-1)),
    Family("fraction_multiply", 2, 1, _draw_two, _write_product),
    Family("fraction_of_number", 2, 1, _draw_part, _write_part),
    Family("fraction_lowest_terms", 2, 1, _draw_reducible, _write_lowest),
)
