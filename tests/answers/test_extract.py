"""The final answer is found by the first rule that applies, and never from a torn piece."""

import time
from typing import get_args

import pytest

from megatron_math.answers.extract import Rule, extract_answer


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        (r"so \boxed{5}", "5", "boxed"),
        (r"first \boxed{1}, then \boxed{2}.", "2", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}", "boxed"),
        (r"\boxed {7} done", "7", "boxed"),
        (r"\boxed 8 done", "8", "boxed"),
        (r"\fbox{9}", "9", "boxed"),
        (r"{ a stray brace \boxed{3}", "3", "boxed"),
        (r"} \boxed{3}", "3", "boxed"),
        (r"\boxed{\boxed{4}}", "4", "boxed"),
        (r"\boxed{6} The answer is 7.", "6", "boxed"),
        ("The answer is 12.", "12", "stated"),
        ("The answer is 3.5.", "3.5", "stated"),
        ("The answer is: 1,234.\nMore.", "1,234", "stated"),
        ("The final answer is $\\frac{3}{4}$. I hope it is correct.", "\\frac{3}{4}", "stated"),
        ("the answer is 5 apples. Then 6.", "5 apples", "stated"),
        ("The answer is $18.", "$18", "stated"),
        ("The answer is **18**", "18", "stated"),
        ("The answer is -3 and 2.", "-3 and 2", "stated"),
        ("The answer is $x = 3$ or $x = 5$.", "$x = 3$ or $x = 5$", "stated"),
        ("The answer is 4. The answer is 5.", "5", "stated"),
        ("work\n#### 18", "18", "stated"),
        ("#### -1,000", "-1,000", "stated"),
        ("A: 18", "18", "last number"),
        ("It costs $1,250.50 in all", "1,250.50", "last number"),
        ("it is -3", "-3", "last number"),
        ("it is -$3", "-3", "last number"),
        ("10-3", "3", "last number"),
        ("x-3 is", "3", "last number"),
        ("= \u22125", "-5", "last number"),
        ("1, 2, 3", "3", "last number"),
        ("about .75", ".75", "last number"),
        ("18.", "18", "last number"),
        ("no number here", None, None),
        ("", None, None),
    ],
)
def test_rules(text, answer, rule):
    found = extract_answer(text)
    assert (found.answer, found.rule) == (answer, rule)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"12 + 13 = 25, so \boxed{2", "2"),  # the last number, read as such, not as a box
        (r"\boxed{7} or rather \boxed{\frac{1}{", "7"),
        ("The answer is 4. So the answer is", "4"),
        ("we get 9. The answer is", "9"),
        (r"\boxed{}", None),
    ],
)
def test_cut_off_texts(text, answer):
    found = extract_answer(text)
    assert found.answer == answer


def test_rules_can_be_chosen():
    text = r"\boxed{1} The answer is 2. 3"
    assert extract_answer(text, rules=["last number"]).answer == "3"
    assert extract_answer(text, rules=["stated", "boxed"]).answer == "2"
    assert extract_answer("only 3", rules=["boxed", "stated"]).answer is None


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 150_000,
        "{" * 1_000_000,
        "The answer is " * 70_000,
        "9" * 1_000_000,
        "1," * 500_000,
        "#### " * 200_000,
        "-" * 1_000_000,
        "$" * 1_000_000,
        "answer" + " " * 1_000_000,
        "The final answer is " * 50_000,
        "A" + "." * 1_000_000,
        "option (" * 120_000,
        "答案" * 300_000,
    ],
)
def test_a_megabyte_takes_no_time(text):
    for rule in get_args(Rule):
        started = time.monotonic()
        extract_answer(text, [rule])
        assert time.monotonic() - started < 3, rule


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5", "minerva"),
        ("the final answer is $x=3$. I hope it is correct. \\boxed{9}", "x=3", "minerva"),
        ("The answer is $5$;$10$.", "$5$;$10$", "stated"),
        ("答案是 5。", "5", "stated"),
        ("解：略。答：3.5 千米。", "3.5 千米", "stated"),
        ("Option B", "B", "choice"),
        ("Answer : C", "C", "choice"),
        ("The answer is (D).", "D", "choice"),
        ("the correct choice is $\\textbf{(A)}$", "A", "choice"),
        ("Ans. is\n E", "E", "last letter"),
        ("故选：C。", "C", "choice"),
        ("选项 A 是错的，故选 B", "B", "choice"),
        ("answer is A? No: B is correct.", "B", "choice"),
        ("X = 4,000\nA", "A", "last letter"),
        ("D is the correct choice", "D", "choice"),
        ("The answer is Bob", None, None),
        ("An Apple", None, None),
    ],
)
def test_rules_for_choices_and_other_languages(text, answer, rule):
    is_choice = rule in ("choice", "last letter", None)
    rules = ["choice", "last letter"] if is_choice else ["minerva", "boxed", "stated"]
    found = extract_answer(text, rules)
    assert (found.answer, found.rule) == (answer, rule)
