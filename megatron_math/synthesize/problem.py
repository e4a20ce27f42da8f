"""A problem before it is checked, and the families that write problems."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

Operands = tuple[int, ...]


class Claim(Protocol):
    """Something that must hold for the answer, tested without the solution's own computation."""

    name: ClassVar[str]

    def fault(self, problem: str, answer: str) -> str | None:
        """What is wrong with `answer`, or None."""


@dataclass(frozen=True)
class Problem:
    """`text` asks, `solution` works it out and ends with the sentence `The answer is X.`"""

    text: str
    solution: str
    answer: str
    operands: Operands
    claim: Claim


@dataclass(frozen=True)
class Family:
    """One kind of problem: draw numbers, then put them into words.

    The same operands give many texts, which is what makes a new text with known operands.
    `space` lists every operand tuple where that is a short list (all of level 1).
    """

    name: str
    level: int
    weight: float
    draw: Callable[[random.Random], Operands]
    write: Callable[[random.Random, Operands], Problem]
    space: Callable[[], list[Operands]] | None = None


def solved(
    text: str, steps: list[str], answer: object, operands: Operands, claim: Claim
) -> Problem:
    """A problem whose solution is `steps`, each a sentence, and the sentence with the answer."""
    solution = " ".join([*(f"{step}." for step in steps), f"The answer is {answer}."])
    return Problem(text, solution, str(answer), operands, claim)
