"""Equations in x: linear on one side, linear on both sides, quadratic with whole roots."""

import random

from megatron_math.synthesize.checks import Solutions
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

_ASK = (
    "Solve {} for x.",
    "Solve the equation {}.",
    "Find x if {}.",
    "What is x if {}?",
    "Find the value of x: {}.",
    "Which x makes {} true?",
)
_ASK_ALL = (
    "Solve {}.",
    "Find all solutions of {}.",
    "Find the roots of {}.",
    "Solve the equation {}.",
    "For which x is {}?",
    "What are the solutions of {}?",
)


def _signed(number: int, tail: str = "") -> str:
    """` + 3x`, ` - x`, or nothing for 0."""
    if number == 0:
        return ""
    size = "" if tail and abs(number) == 1 else str(abs(number))
    return f" {'+' if number > 0 else '-'} {size}{tail}"


def _draw_linear(rng: random.Random) -> Operands:
    a, x = rng.randint(2, 12), rng.randint(1, 20)
    b = rng.choice([-1, 1]) * rng.randint(1, 30)
    return (a, b, a * x + b) if a * x + b > 0 else _draw_linear(rng)


def _write_linear(rng: random.Random, operands: Operands) -> Problem:
    a, b, c = operands
    equation = f"{a}x{_signed(b)} = {c}"
    moved = c - b
    steps = [f"{a}x = {c}{_signed(-b)} = {moved}", f"x = {moved} / {a} = {moved // a}"]
    text = rng.choice(_ASK).format(equation)
    return solved(text, steps, moved // a, operands, Solutions(equation))


def _draw_two_sided(rng: random.Random) -> Operands:
    small, gap, x = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 12)
    b = rng.randint(1, 30)
    return small + gap, b, small, b + gap * x


def _write_two_sided(rng: random.Random, operands: Operands) -> Problem:
    a, b, c, d = operands
    equation = f"{a}x + {b} = {c}x + {d}"
    steps = [
        f"{a} - {c} = {a - c}",
        f"{a - c}x = {d} - {b} = {d - b}",
        f"x = {d - b} / {a - c} = {(d - b) // (a - c)}",
    ]
    text = rng.choice(_ASK).format(equation)
    return solved(text, steps, (d - b) // (a - c), operands, Solutions(equation))


def _draw_roots(rng: random.Random) -> Operands:
    first, second = (rng.choice([-1, 1]) * rng.randint(1, 12) for _ in range(2))
    return min(first, second), max(first, second)


def _write_quadratic(rng: random.Random, operands: Operands) -> Problem:
    r, s = operands
    equation = f"x^2{_signed(-r - s, 'x')}{_signed(r * s)} = 0"
    steps = [
        f"{r} + {s} = {r + s} and {r} * {s} = {r * s}, so (x{_signed(-r)})(x{_signed(-s)}) = 0"
    ]
    answer = f"{r} and {s}" if r != s else f"{r}"
    text = rng.choice(_ASK_ALL).format(equation)
    return solved(text, steps, answer, operands, Solutions(equation))


FAMILIES = (
    Family("linear", 2, 2, _draw_linear, _write_linear),
    Family("linear_two_sided", 3, 2, _draw_two_sided, _write_two_sided),
    Family("quadratic", 3, 3, _draw_roots, _write_quadratic),
)
