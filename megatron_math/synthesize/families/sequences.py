"""Arithmetic and geometric sequences: a later term, the sum of the first terms."""

import random

from megatron_math.synthesize.checks import Continuation
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

_ASK_NEXT = (
    "What comes next: {}?",
    "Find the next term of {}.",
    "What is the next number in {}?",
    "A pattern starts {}. Which number comes next?",
)
_ASK_TERM = (
    "What is term number {n} of {}, ...?",
    "Find term {n} of the sequence {}, ...",
    "A sequence starts {}. What is term number {n}?",
    "The sequence {} goes on in the same way. Find term {n}.",
)
_ASK_SUM = (
    "What is the sum of the first {n} terms of {}, ...?",
    "Add the first {n} terms of the sequence {}, ...",
    "A sequence starts {}. Find the sum of its first {n} terms.",
)


def _listed(terms: list[int]) -> str:
    return ", ".join(map(str, terms))


def _draw_arithmetic(rng: random.Random) -> Operands:
    return rng.randint(1, 20), rng.randint(2, 12), rng.randint(6, 20)


def _write_term(rng: random.Random, operands: Operands) -> Problem:
    start, step, number = operands
    text = rng.choice(_ASK_TERM).format(_listed([start + step * i for i in range(4)]), n=number)
    rise = (number - 1) * step
    steps = [
        f"{start + step} - {start} = {step}",
        f"{number} - 1 = {number - 1}",
        f"{number - 1} * {step} = {rise}",
        f"{start} + {rise} = {start + rise}",
    ]
    return solved(text, steps, start + rise, operands, Continuation(number))


def _write_sum(rng: random.Random, operands: Operands) -> Problem:
    start, step, number = operands
    text = rng.choice(_ASK_SUM).format(_listed([start + step * i for i in range(4)]), n=number)
    rise = (number - 1) * step
    last, ends = start + rise, 2 * start + rise
    steps = [
        f"{start + step} - {start} = {step}",
        f"{number - 1} * {step} = {rise}",
        f"{start} + {rise} = {last}",
        f"{start} + {last} = {ends}",
        f"{number} * {ends} = {number * ends}",
        f"{number * ends} / 2 = {number * ends // 2}",
    ]
    return solved(text, steps, number * ends // 2, operands, Continuation(number, is_sum=True))


def _write_next(rng: random.Random, operands: Operands) -> Problem:
    start, step, _ = operands
    terms = [start + step * i for i in range(4)]
    steps = [f"{terms[1]} - {terms[0]} = {step}", f"{terms[3]} + {step} = {terms[3] + step}"]
    text = rng.choice(_ASK_NEXT).format(_listed(terms))
    return solved(text, steps, terms[3] + step, operands, Continuation(5))


def _draw_geometric(rng: random.Random) -> Operands:
    return rng.randint(1, 12), rng.randint(2, 5), 5


def _write_geometric(rng: random.Random, operands: Operands) -> Problem:
    start, ratio, number = operands
    terms = [start * ratio**i for i in range(4)]
    steps = [
        f"{terms[1]} / {terms[0]} = {ratio}",
        f"{terms[3]} * {ratio} = {terms[3] * ratio}",
    ]
    text = rng.choice(_ASK_NEXT).format(_listed(terms))
    return solved(text, steps, terms[3] * ratio, operands, Continuation(number))


FAMILIES = (
    Family("sequence_next", 3, 1, _draw_arithmetic, _write_next),
    Family("sequence_term", 3, 1, _draw_arithmetic, _write_term),
    Family("sequence_sum", 3, 1, _draw_arithmetic, _write_sum),
    Family("sequence_geometric", 3, 1, _draw_geometric, _write_geometric),
)
