"""The check is independent and can fail: right problems pass, every planted fault is found."""

import random
import re
from dataclasses import replace
from fractions import Fraction

import pytest

from megatron_math.answers.quantity import parse_quantities
from megatron_math.synthesize.checks import Continuation, Expression, Solutions, find_fault
from megatron_math.synthesize.exact import numbers_in, statements
from megatron_math.synthesize.families import FAMILIES
from megatron_math.synthesize.problem import Problem, solved

IDS = [family.name for family in FAMILIES]


def draw(family, count, seed=0):
    rng = random.Random(seed)
    return [family.write(rng, family.draw(rng)) for _ in range(count)]


def with_answer(problem, answer):
    """The same problem with another answer, stated consistently."""
    ending = f"The answer is {problem.answer}."
    solution = problem.solution.removesuffix(ending) + f"The answer is {answer}."
    return replace(problem, answer=answer, solution=solution)


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_families_write_right_problems(family):
    for problem in draw(family, 50):
        assert find_fault(problem) is None, problem


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_wrong_answer_is_found_in_every_family(family):
    for problem in draw(family, 20):
        many = parse_quantities(problem.answer)
        if many:
            one, two = (quantity.value for quantity in many)
            wrong = [f"{one}", f"{two}", f"{one} and {two + 1}", f"{one} and {one}"]
            wrong.append(f"{one}, 0 and {two}")
        else:
            value = Fraction(problem.answer)
            wrong = [str(value + 1), str(-value - 1), str(value * 2 + 1), "x"]
            wrong.append(f"{problem.answer}.0")
        for answer in wrong:
            fault = find_fault(with_answer(problem, answer))
            assert fault is not None, (problem, answer)
            assert fault.startswith("wrong answer"), fault


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_wrong_statement_is_found_in_every_family(family):
    """The answer stays right; one result inside the solution is off by one."""
    for problem in draw(family, 20):
        for chain in statements(problem.solution):
            wrong = f"= {chain[-1]}1"
            right = rf"= {re.escape(chain[-1])}(?![\d/])"
            solution = re.sub(right, wrong, problem.solution, count=1)
            assert solution != problem.solution
            fault = find_fault(replace(problem, solution=solution))
            assert fault is not None, solution
            assert fault.startswith("wrong statement"), fault


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_changed_number_in_the_text_is_found_in_every_family(family):
    """The solution solves another problem than the one asked."""
    for problem in draw(family, 20):
        text = re.sub(r"(?<![\w^])\d+", lambda match: str(int(match.group()) + 1), problem.text)
        assert numbers_in(text) != numbers_in(problem.text)
        assert find_fault(replace(problem, text=text)) is not None, (problem, text)


def test_an_ending_that_states_something_else_is_found():
    problem = solved("What is 3 + 4?", ["3 + 4 = 7"], 7, (3, 4), Expression("3 + 4"))
    assert find_fault(problem) is None
    for ending in ("", " The answer is 8.", " The answer is 7. Yes."):
        fault = find_fault(replace(problem, solution=f"3 + 4 = 7.{ending}"))
        assert fault is not None
        assert fault.startswith("wrong ending")


def test_a_solution_without_arithmetic_is_not_accepted_as_checked():
    problem = Problem("What is 3 + 4?", "The answer is 7.", "7", (3, 4), Expression("3 + 4"))
    assert find_fault(problem) == "no statement: the solution computes nothing that can be checked"


@pytest.mark.parametrize(
    ("equation", "answer", "right"),
    [
        ("x^2 - 5x + 6 = 0", "2 and 3", True),
        ("x^2 - 5x + 6 = 0", "2", False),
        ("x^2 - 6x + 9 = 0", "3", True),
        ("x^2 - 6x + 9 = 0", "3 and 3", False),
        ("x^2 + 1 = 0", "1", False),
        ("2x + 3 = 2x + 3", "5", False),  # every x solves it: no single answer
        ("3x - 4 = 2x + 1", "5", True),
        ("-x + 4 = 1", "3", True),
    ],
)
def test_equations_want_all_solutions_and_nothing_else(equation, answer, right):
    assert (Solutions(equation).fault(f"Solve {equation}.", answer) is None) == right
    assert Solutions(equation).fault("Solve something else.", answer) is not None


@pytest.mark.parametrize(
    ("text", "claim", "answer", "right"),
    [
        ("2, 5, 8, 11", Continuation(5), "14", True),
        ("2, 5, 8, 11", Continuation(5), "15", False),
        ("3, 6, 12, 24", Continuation(6), "96", True),
        ("1, 2, 3", Continuation(100, is_sum=True), "5050", True),
        ("1, 2, 4, 7", Continuation(5), "11", False),  # neither kind: no claim can hold
        ("no terms", Continuation(5), "14", False),
    ],
)
def test_sequences_are_continued_from_the_text(text, claim, answer, right):
    assert (claim.fault(text, answer) is None) == right


def test_level_1_is_one_step_with_numbers_to_20():
    for family in FAMILIES:
        if family.level != 1:
            continue
        for problem in draw(family, 200, seed=3):
            numbers = [*numbers_in(problem.text), *numbers_in(problem.solution)]
            assert max(numbers) <= 20, problem
            assert min(numbers) >= 0, problem
            assert len(numbers_in(problem.text)) == 2, problem
            assert len(statements(problem.solution)) == 1, problem
            assert len(problem.solution.split()) == 9, problem


def test_the_same_operands_give_many_texts():
    family = FAMILIES[0]
    rng = random.Random(0)
    assert len({family.write(rng, (7, 12)).text for _ in range(300)}) > 250
