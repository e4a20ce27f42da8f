"""Exact arithmetic and the statements that a solution makes."""

from fractions import Fraction

import pytest

from megatron_math.synthesize.exact import evaluate, numbers_in, statements


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 + 7", 19),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("-3 + -2", -5),
        ("1/2 + 1/3", Fraction(5, 6)),
        ("2^10", 1024),
        ("7 / 2", Fraction(7, 2)),
    ],
)
def test_values(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "text", ["", "3 +", "x + 1", "1 / 0", "2^1000", "3.5 + 1", "f(2)", "True", "1 if 1 else 2"]
)
def test_anything_but_arithmetic_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        evaluate(text)


@pytest.mark.parametrize(
    ("solution", "chains"),
    [
        ("12 + 7 = 19. The answer is 19.", [["12 + 7", "19"]]),
        ("1/2 + 1/3 = 3/6 + 2/6 = 5/6.", [["1/2 + 1/3", "3/6 + 2/6", "5/6"]]),
        ("3x = 20 - 5 = 15. x = 15 / 3 = 5.", [["20 - 5", "15"], ["15 / 3", "5"]]),
        (
            "-3 + 2 = -1 and -3 * 2 = -6, so (x + 3)(x - 2) = 0.",
            [["-3 + 2", "-1"], ["-3 * 2", "-6"]],
        ),
        ("The area is 3 * 4 = 12.", [["3 * 4", "12"]]),
        ("x + 5 = 9 and 2x - 3 = 4.", []),
        ("No arithmetic here.", []),
    ],
)
def test_statements(solution, chains):
    assert [list(chain) for chain in statements(solution)] == chains


def test_exponents_are_not_numbers_of_a_text():
    assert numbers_in("Solve x^2 - 5x + 12 = 0.") == [5, 12, 0]
    assert numbers_in("12 pens, 3/4 and (7)") == [12, 3, 4, 7]
