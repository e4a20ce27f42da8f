"""Equality of answers: a table of pairs, traps included, real model solutions, hostile input."""

import json
import time

import pytest

from megatron_math.answers.equal import Verdict, equal, equal_many, equal_without_algebra
from megatron_math.answers.extract import extract_answer

# (answer, reference): equal.
SAME = [
    # spelling of numbers
    ("18", "18"), ("18.0", "18"), ("18.", "18"), ("018", "18"), ("+5", "5"), ("-5", "-5"),
    ("\u22125", "-5"), ("1,234", "1234"), ("1{,}234", "1234"), (r"1\,234", "1234"),
    (r"10{,}000", "10000"),
    ("0.50", ".5"), ("1,000.5", "1000.5"), (" 7 ", "7"), ("$7$", "7"), (r"\(7\)", "7"),
    ("2 million", "2000000"), ("1.5 thousand", "1500"),
    # fractions
    ("1/2", "0.5"), ("1/2", r"\frac{1}{2}"), (r"\dfrac{1}{2}", r"\frac12"), ("2/4", "1/2"),
    ("-1/2", r"-\frac{1}{2}"), (r"\frac{-1}{2}", r"-\frac{1}{2}"), ("1 1/2", "3/2"),
    (r"1\frac{1}{2}", "1.5"), ("3/1", "3"), ("0.333333333", "1/3"), (r"\tfrac{7}{2}", "3.5"),
    # units, money, percent
    ("$18", "18"), (r"\$18", "18"), ("18 dollars", "18"), ("$18", "18 dollars"),
    ("50 cents", "$0.50"),
    ("5 apples", "5"), ("5 apples", "5 eggs"), ("5 cm", "5"), (r"5\text{ cm}", "5 cm"),
    (r"5\mbox{ inches}", "5"), ("2 hours", "120 minutes"), ("100 cm", "1 m"),
    ("12 square feet", "12"),
    ("50%", "50"), (r"50\%", "50"), ("50%", "0.5"), ("50 percent", "50%"), ("60^\\circ", "60"),
    ("60 degrees", r"60^\circ"), ("60°", r"60^{\circ}"), ("3 miles per hour", "3"),
    # names of variables, lists
    ("x = 5", "5"), ("x=5", "x=5"), ("2 and 5", "5 and 2"), ("x = 2 or x = 5", "2 and 5"),
    ("-3, 2", "2 and -3"), ("1, 2, and 3", "3, 2, 1"), ("1,2", "2,1"),
    # text
    ("Evelyn", r"\text{Evelyn}"), ("evelyn", r"\text{Evelyn}"), ("east", r"\text{east}"),
    ("B", "(B)"), ("(C)", r"\text{(C)}"), ("Yes", "yes"),
    # algebra
    ("-q + p", "p - q"), ("2x + 2", "2(x+1)"), (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\pi/2", r"\frac{\pi}{2}"),
    (r"(3, \pi/2)", r"\left( 3, \frac{\pi}{2} \right)"), (r"(1, 2)", "(1,2)"),
    ("[0,1)", r"\left[0,1\right)"), (r"x \in (0, 5)", "(0,5)"), ("{1, 2}", r"\{2, 1\}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), ("2^{10}", "1024"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"x^2 + 2x + 1", "(x+1)^2"), ("10^{-2}", "0.01"), (r"\frac{1}{4} \cdot 2", "0.5"),
    ("1+i", "i + 1"),
    ("x^(1+1)", "x^2"), ("(x+1)^(2)", "x^2 + 2x + 1"), ("2**10", "1024"),
]  # fmt: skip

# (answer, reference): different, and tempting.
DIFFERENT = [
    ("18", "19"), ("-5", "5"), ("1,234", "1.234"), ("0.5", "50"), ("5000%", "50%"), ("50%", "60"),
    ("0.05", "50%"), ("12", "1.2"), ("1/3", "0.33"), ("1/2", "2"), ("2/3", "3/2"), ("100", "1"),
    ("1 1/2", "11/2"), ("5 cm", "5 m"), ("2 hours", "2 minutes"), ("50 cents", "50 dollars"),
    ("$5", "5 cents"), ("5x", "5"), ("5 x", "5"), ("5 pi", "5"), ("3 and 4", "3"), ("2", "2 and 5"),
    ("2, 5, 5", "2, 5"), ("2 and 6", "2 and 5"), ("(1, 2)", "(2, 1)"), ("[0,1]", "[0,1)"),
    ("(0,1)", "[0,1]"), (r"\text{Elyven}", r"\text{Evelyn}"), ("west", r"\text{east}"),
    ("(B)", "(C)"), ("B", "C"), ("no", "yes"), ("p + q", "p - q"), ("2x + 1", "2(x+1)"),
    (r"\sqrt{8}", r"2\sqrt{3}"), (r"\frac{\pi}{3}", r"\frac{\pi}{2}"), ("x^2", "x^3"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    ("", "5"), ("   ", "5"), (None, "5"), ("?", "5"), ("1/0", "0"), ("1/0", "5"), ("nan", "5"),
    ("infinity", "5"), ("1e400", "5"), (r"\frac{1}{0}", "5"), ("5 or 6", "5"), ("to 5", "5"),
    ("3.14", r"\pi"), ("12345678901234567890", "12345678901234567891"), ("__import__('os')", "0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def verdicts():
    pairs = SAME + DIFFERENT
    return dict(zip(pairs, equal_many(pairs), strict=True))


@pytest.mark.parametrize("pair", SAME)
def test_same(verdicts, pair):
    assert verdicts[pair].correct, verdicts[pair]


@pytest.mark.parametrize("pair", DIFFERENT)
def test_different(verdicts, pair):
    assert not verdicts[pair].correct, verdicts[pair]


def test_no_input_ends_in_an_error(verdicts):
    assert {v.how for v in verdicts.values()} <= {
        "no answer", "text", "choice", "words", "number", "numbers", "algebra", "math-verify",
    }  # fmt: skip


def test_cheap_rules_need_no_algebra():
    for pair in [("18.0", "18"), ("$1,000", "1000"), ("2 and 3", "3, 2"), ("19", "18")]:
        assert equal_without_algebra(*pair) is not None
    assert equal_without_algebra("p - q", "-q + p") is None


def test_all_model_solutions_of_gsm8k_agree_with_their_labels(shared_data):
    with open(shared_data / "gsm8k/test.jsonl") as file:
        references = [json.loads(line)["answer"].split("####")[1] for line in file]
    pairs, labels = [], []
    with open(shared_data / "gsm8k/model_solutions.jsonl") as file:
        for line, reference in zip(file, references, strict=True):
            for solution in json.loads(line).values():
                if isinstance(solution, dict):
                    pairs.append((extract_answer(solution["solution"]).answer, reference))
                    labels.append(solution["is_correct"])
    assert len(pairs) == 5276
    verdicts = equal_many(pairs)
    disagreements = [
        (pair, label)
        for pair, label, verdict in zip(pairs, labels, verdicts, strict=True)
        if verdict.correct != label
    ]
    assert disagreements == []


def test_neighbours_answers_are_not_accepted(shared_data):
    """Every MATH-500 reference against the next problem's: only equal ones may pass."""
    with open(shared_data / "eval/math-oai.jsonl") as file:
        answers = [json.loads(line)["answer"] for line in file]
    shifted = list(zip(answers, answers[1:] + answers[:1], strict=True))
    accepted = [pair for pair, v in zip(shifted, equal_many(shifted), strict=True) if v.correct]
    assert sorted(accepted) == [("3", "3"), ("5", "x=5"), ("7", "7")]


TIMES_OUT = r"\lim_{n \to 5} 9^{9^{9^{9^n}}}"  # read by math-verify alone, which computes it


def test_one_hostile_answer_costs_the_limit_and_no_more():
    equal("p - q", "-q + p")  # start the pool
    started = time.monotonic()
    assert equal(TIMES_OUT, "5") == Verdict(False, "timeout")
    assert 1 < time.monotonic() - started < 4.5
    assert equal("-q + p", "p - q", limit_seconds=5).correct  # as ever, also on a loaded machine
