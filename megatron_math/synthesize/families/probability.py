"""Probability with equally likely outcomes: a ball from a bag, two balls, dice, coins.

Solutions count cleverly; the checks list every outcome.
"""

import itertools
import math
import random
from collections.abc import Sequence

from megatron_math.synthesize.checks import Chance
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

_COLOURS = ("red", "blue", "green", "white", "black")


def _share(good: int, total: int) -> tuple[str, list[str]]:
    """The probability in lowest terms, and the step that gets there when there is one."""
    divisor = math.gcd(good, total)
    top, bottom = good // divisor, total // divisor
    answer = str(top) if bottom == 1 else f"{top}/{bottom}"
    return answer, ([f"{good}/{total} = {answer}"] if divisor > 1 else [])


def balls(*counts: int) -> list[tuple[int, int]]:
    return [(colour, ball) for colour, count in enumerate(counts) for ball in range(count)]


def is_first_colour(ball: tuple[int, int], *_: int) -> bool:
    return ball[0] == 0


def ordered_pairs_of_balls(*counts: int) -> list[tuple[tuple[int, int], ...]]:
    return list(itertools.permutations(balls(*counts), 2))


def are_first_colour(drawn: Sequence[tuple[int, int]], *_: int) -> bool:
    return all(colour == 0 for colour, _ball in drawn)


def two_dice(_total: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(1, 7), repeat=2))


def sums_to(dice: Sequence[int], total: int) -> bool:
    return sum(dice) == total


def coins(number: int, _heads: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=number))


def has_heads(tossed: Sequence[int], _number: int, heads: int) -> bool:
    return sum(tossed) == heads


def _draw_bag(rng: random.Random) -> Operands:
    return tuple(rng.randint(2, 15) for _ in range(rng.choice((2, 3))))


def _write_bag(rng: random.Random, operands: Operands) -> Problem:
    colours = rng.sample(_COLOURS, len(operands))
    parts = [f"{count} {colour}" for count, colour in zip(operands, colours, strict=True)]
    content = ", ".join(parts[:-1]) + f" and {parts[-1]} balls"
    text = rng.choice(
        (
            "A bag has {bag}. One ball is drawn. What is the probability that it is {c}?",
            "There are {bag} in a box. What is the chance of drawing a {c} ball?",
            "One of {bag} is picked at random. How likely is it to be {c}?",
        )
    ).format(bag=content, c=colours[0])
    steps, total = [], operands[0]
    for count in operands[1:]:
        steps.append(f"{total} + {count} = {total + count}")
        total += count
    answer, reduce = _share(operands[0], total)
    claim = Chance(operands, balls, is_first_colour)
    return solved(text, steps + reduce, answer, operands, claim)


def _draw_two_balls(rng: random.Random) -> Operands:
    return rng.randint(2, 8), rng.randint(2, 8)


def _write_two_balls(rng: random.Random, operands: Operands) -> Problem:
    wanted, others = operands
    first, second = rng.sample(_COLOURS, 2)
    text = rng.choice(
        (
            "A bag has {a} {f} and {b} {s} balls. Two are drawn. How likely are both {f}?",
            "Two balls are taken from {a} {f} and {b} {s} ones. What is the probability that both are {f}?",  # noqa: E501
            "There are {a} {f} and {b} {s} balls in a box. Two are picked without putting any back. What is the chance that both are {f}?",  # noqa: E501
        )
    ).format(a=wanted, b=others, f=first, s=second)
    total = wanted + others
    good, ways = wanted * (wanted - 1), total * (total - 1)
    answer, reduce = _share(good, ways)
    steps = [
        f"{wanted} + {others} = {total}",
        f"{wanted} * {wanted - 1} = {good}",
        f"{total} * {total - 1} = {ways}",
        *reduce,
    ]
    claim = Chance(operands, ordered_pairs_of_balls, are_first_colour)
    return solved(text, steps, answer, operands, claim)


def _draw_dice(rng: random.Random) -> Operands:
    return (rng.randint(2, 12),)


def _write_dice(rng: random.Random, operands: Operands) -> Problem:
    (total,) = operands
    text = rng.choice(
        (
            "Two fair dice are rolled. What is the probability that the sum is {}?",
            "What is the chance that two dice show a sum of {}?",
            "Two dice are thrown. How likely is a sum of {}?",
        )
    ).format(total)
    ways = 6 - abs(total - 7)
    answer, reduce = _share(ways, 36)
    steps = ["6 * 6 = 36", f"The sum is {total} in {ways} of them", *reduce]
    return solved(text, steps, answer, operands, Chance(operands, two_dice, sums_to))


def _draw_coins(rng: random.Random) -> Operands:
    number = rng.randint(2, 6)
    return number, rng.randint(1, number)


def _write_coins(rng: random.Random, operands: Operands) -> Problem:
    number, heads = operands
    text = rng.choice(
        (
            "A fair coin is tossed {n} times. What is the probability of exactly {k} heads?",
            "How likely are exactly {k} heads in {n} tosses of a fair coin?",
            "{n} fair coins are tossed. What is the chance that exactly {k} show heads?",
        )
    ).format(n=number, k=heads)
    ways = math.comb(number, heads)
    answer, reduce = _share(ways, 2**number)
    claim = Chance(operands, coins, has_heads)
    steps = [f"2^{number} = {2**number}", f"{ways} of them show {heads} heads", *reduce]
    return solved(text, steps, answer, operands, claim)


FAMILIES = (
    Family("bag", 3, 2, _draw_bag, _write_bag),
    Family("two_balls", 3, 1, _draw_two_balls, _write_two_balls),
    Family("dice", 3, 0.25, _draw_dice, _write_dice),
    Family("coins", 3, 0.5, _draw_coins, _write_coins),
)
