"""Texts with numbers in them: fill in names, things and operands; work the steps out."""

import itertools
import operator
import random
from collections.abc import Callable, Sequence

from megatron_math.synthesize.checks import Expression
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

NAMES = (
    "Ada", "Ali", "Amy", "Ana", "Ben", "Bob", "Carl", "Cara", "Dan", "Dina", "Eli", "Emma",
    "Eva", "Finn", "Gus", "Hana", "Ian", "Ivy", "Jack", "Jane", "Joe", "Kim", "Leo", "Lily",
    "Lucy", "Max", "Mia", "Mona", "Nina", "Noah", "Omar", "Pam", "Paul", "Rita", "Rosa", "Sam",
    "Sara", "Tom", "Uma", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "balls", "beads", "books", "buttons", "candles", "cards", "coins", "cookies",
    "cups", "eggs", "flowers", "hats", "keys", "kites", "lemons", "marbles", "pencils", "pens",
    "plates", "rocks", "shells", "stamps", "stickers", "toys",
)  # fmt: skip
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


def word_family(
    name: str,
    level: int,
    weight: float,
    *,
    steps: str,
    expression: str,
    ranges: Sequence[tuple[int, int]],
    largest: int,
    texts: Sequence[str],
) -> Family:
    """A family whose texts name the operands {a}, {b}, ... and ask for one number.

    steps: "p = a + b; p - c", worked out one after another for the solution. expression: the same
    value written down once more, for the check. ranges: inclusive bounds of each operand.
    No operand, intermediate result or answer is above `largest`, negative, or a broken number.
    """
    letters = "abcd"[: len(ranges)]

    def is_allowed(operands: Operands) -> bool:
        results = work_out(steps, dict(zip(letters, operands, strict=True)))
        return results is not None and all(0 <= result <= largest for _, result in results)

    def draw(rng: random.Random) -> Operands:
        while True:
            operands = tuple(rng.randint(low, high) for low, high in ranges)
            if is_allowed(operands):
                return operands

    def space() -> list[Operands]:
        every = itertools.product(*(range(low, high + 1) for low, high in ranges))
        return [operands for operands in every if is_allowed(operands)]

    def write(rng: random.Random, operands: Operands) -> Problem:
        values = dict(zip(letters, operands, strict=True))
        first, second = rng.sample(NAMES, 2)
        words = {"A": first, "B": second, "things": rng.choice(THINGS)}
        text = rng.choice(texts).format(**values, **words)
        results = work_out(steps, values)
        assert results is not None, (name, operands)
        claim = Expression(" ".join(str(values.get(token, token)) for token in _tokens(expression)))
        return solved(text, [step for step, _ in results], results[-1][1], operands, claim)

    return Family(name, level, weight, draw, write, space if level == 1 else None)


def _tokens(expression: str) -> list[str]:
    return expression.replace("(", "( ").replace(")", " )").split()


def work_out(steps: str, values: dict[str, int]) -> list[tuple[str, int]] | None:
    """Each step as ("3 + 4 = 7", 7); None when a division leaves a remainder."""
    known, results = dict(values), []
    for step in steps.split(";"):
        target, _, body = step.rpartition("=")
        left_name, sign, right_name = body.split()
        left, right = known[left_name], known[right_name]
        if sign == "/" and (right == 0 or left % right):
            return None
        result = _OPERATIONS[sign](left, right)
        known[target.strip()] = result
        results.append((f"{left} {sign} {right} = {result}", result))
    return results
