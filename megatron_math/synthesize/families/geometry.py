"""Simple geometry with whole lengths: rectangles, right triangles, boxes.

The checks measure another way than the solutions: unit squares are counted, outlines walked, areas
taken from corner coordinates, the longest side found by trying lengths.
"""

import itertools
import random
from fractions import Fraction

from megatron_math.synthesize.checks import Shape
from megatron_math.synthesize.problem import Family, Operands, Problem, solved

_UNITS = ("cm", "m", "inches", "feet")


def count_squares(width: int, height: int) -> int:
    return sum(1 for _ in itertools.product(range(width), range(height)))


def count_cubes(width: int, depth: int, height: int) -> int:
    return sum(1 for _ in itertools.product(range(width), range(depth), range(height)))


def walk_around(width: int, height: int) -> int:
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    ends = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(abs(x2 - x1) + abs(y2 - y1) for (x1, y1), (x2, y2) in ends)


def triangle_from_corners(base: int, height: int) -> Fraction:
    corners = [(0, 0), (base, 0), (base + 1, height)]  # the area does not depend on the top's place
    ends = zip(corners, corners[1:] + corners[:1], strict=True)
    return Fraction(abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in ends)), 2)


def try_longest_side(a: int, b: int) -> int:
    return next(c for c in range(max(a, b), a + b) if (c - a) * (c + a) == b * b)


def side_from_area(area: int, side: int) -> int:
    return next(other for other in range(1, area + 1) if count_squares(side, other) == area)


def _draw_sides(rng: random.Random) -> Operands:
    return rng.randint(2, 20), rng.randint(2, 20)


def _write_area(rng: random.Random, operands: Operands) -> Problem:
    a, b = operands
    text = rng.choice(
        (
            "A rectangle is {a} {u} long and {b} {u} wide. What is its area?",
            "Find the area of a rectangle with sides {a} {u} and {b} {u}.",
            "A floor measures {a} {u} by {b} {u}. What is its area?",
            "What is the area of a garden that is {a} {u} by {b} {u}?",
        )
    ).format(a=a, b=b, u=rng.choice(_UNITS))
    return solved(text, [f"{a} * {b} = {a * b}"], a * b, operands, Shape(count_squares, operands))


def _write_perimeter(rng: random.Random, operands: Operands) -> Problem:
    a, b = operands
    text = rng.choice(
        (
            "A rectangle is {a} {u} long and {b} {u} wide. What is its perimeter?",
            "Find the perimeter of a rectangle with sides {a} {u} and {b} {u}.",
            "A garden is {a} {u} by {b} {u}. How long is the fence around it?",
            "What is the distance around a floor of {a} {u} by {b} {u}?",
        )
    ).format(a=a, b=b, u=rng.choice(_UNITS))
    steps = [f"{a} + {b} = {a + b}", f"2 * {a + b} = {2 * (a + b)}"]
    return solved(text, steps, 2 * (a + b), operands, Shape(walk_around, operands))


def _draw_triangle(rng: random.Random) -> Operands:
    base, height = _draw_sides(rng)
    return (base, height) if base * height % 2 == 0 else _draw_triangle(rng)


def _write_triangle(rng: random.Random, operands: Operands) -> Problem:
    a, b = operands
    text = rng.choice(
        (
            "A triangle has base {a} {u} and height {b} {u}. What is its area?",
            "Find the area of a triangle with base {a} {u} and height {b} {u}.",
            "What is the area of a triangle that is {b} {u} high over a base of {a} {u}?",
        )
    ).format(a=a, b=b, u=rng.choice(_UNITS))
    steps = [f"{a} * {b} = {a * b}", f"{a * b} / 2 = {a * b // 2}"]
    claim = Shape(triangle_from_corners, operands)
    return solved(text, steps, a * b // 2, operands, claim)


_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))


def _draw_triple(rng: random.Random) -> Operands:
    a, b, c = rng.choice(_TRIPLES)
    factor = rng.randint(1, 60 // c)
    legs = [a * factor, b * factor]
    rng.shuffle(legs)
    return tuple(legs)


def _write_longest_side(rng: random.Random, operands: Operands) -> Problem:
    a, b = operands
    text = rng.choice(
        (
            "A right triangle has legs {a} {u} and {b} {u}. How long is its longest side?",
            "Find the hypotenuse of a right triangle with legs {a} {u} and {b} {u}.",
            "The legs of a right triangle are {a} {u} and {b} {u}. What is the hypotenuse?",
            "A walker goes {a} {u} east and {b} {u} north. How far away is the start?",
        )
    ).format(a=a, b=b, u=rng.choice(_UNITS))
    squares = a * a + b * b
    root = round(squares**0.5)
    steps = [
        f"{a} * {a} = {a * a}",
        f"{b} * {b} = {b * b}",
        f"{a * a} + {b * b} = {squares}",
        f"{root} * {root} = {squares}",
    ]
    return solved(text, steps, root, operands, Shape(try_longest_side, operands))


def _draw_box(rng: random.Random) -> Operands:
    return rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 12)


def _write_volume(rng: random.Random, operands: Operands) -> Problem:
    a, b, c = operands
    text = rng.choice(
        (
            "A box is {a} {u} long, {b} {u} wide and {c} {u} high. What is its volume?",
            "Find the volume of a box with sides {a} {u}, {b} {u} and {c} {u}.",
            "What is the volume of a block of {a} {u} by {b} {u} by {c} {u}?",
        )
    ).format(a=a, b=b, c=c, u=rng.choice(_UNITS))
    steps = [f"{a} * {b} = {a * b}", f"{a * b} * {c} = {a * b * c}"]
    return solved(text, steps, a * b * c, operands, Shape(count_cubes, operands))


def _draw_known_area(rng: random.Random) -> Operands:
    side, other = rng.randint(2, 12), rng.randint(2, 12)
    return side * other, side


def _write_missing_side(rng: random.Random, operands: Operands) -> Problem:
    area, side = operands
    text = rng.choice(
        (
            "A rectangle has area {a} and one side {b}. How long is the other side?",
            "The area of a rectangle is {a} and its width is {b}. What is its length?",
            "A floor of area {a} is {b} {u} wide. How long is it?",
        )
    ).format(a=area, b=side, u=rng.choice(_UNITS))
    steps = [f"{area} / {side} = {area // side}"]
    return solved(text, steps, area // side, operands, Shape(side_from_area, operands))


FAMILIES = (
    Family("rectangle_area", 3, 1, _draw_sides, _write_area),
    Family("rectangle_perimeter", 3, 1, _draw_sides, _write_perimeter),
    Family("triangle_area", 3, 1, _draw_triangle, _write_triangle),
    Family("right_triangle", 3, 0.5, _draw_triple, _write_longest_side),
    Family("box_volume", 3, 0.5, _draw_box, _write_volume),
    Family("rectangle_side", 3, 0.5, _draw_known_area, _write_missing_side),
)
