"""Cutting solutions into steps, `[back]`, and counting steps against labels made by hand."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.answers.solution_steps import count_steps, split_steps
from megatron_math.synthesize.steps import BACK, delete_back, splice

WORDS = st.sampled_from(
    ["3 + 4 = 7", "so x = 5", "甲有三个苹果", "\\[ x^2", "= 4 \\]", "$$a = b$$", "e.g. 2.5",
     "1. Then", "Step 2:", "## Next", "", " ", "The answer is 4", "因此 x = 2", "\\begin{align}",
     "\\end{align}"]
)  # fmt: skip
ENDS = st.sampled_from([". ", ".\n", "\n", "\n\n", "。", "! ", "? ", " ", "。\n", ".\r\n", "."])
TEXTS = st.lists(st.tuples(WORDS, ENDS), min_size=1, max_size=12).map(
    lambda parts: "".join(word + end for word, end in parts)
)


@given(st.one_of(TEXTS, st.text()))
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(split_steps(text)) == text


@given(TEXTS, st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_what_is_taken_back_deletes_to_the_solution(text: str, seed: int, slips: int) -> None:
    trace, made = splice(text, slips, random.Random(seed))
    assert trace.count(BACK) == len(made)
    assert delete_back(trace) == text
    again, _ = splice(text, slips, random.Random(seed))
    assert again == trace


@pytest.mark.parametrize("seed", range(20))
def test_a_trace_of_lines(seed: int) -> None:
    solution = "3 + 4 = 7\n7 * 2 = 14\n14 - 5 = 9\nThe answer is \\boxed{9}."
    trace, [(place, later)] = splice(solution, 1, random.Random(seed))
    lines, steps = trace.split("\n"), solution.split("\n")
    assert later > place
    assert lines[place - 1] == f"{steps[later - 1]} {BACK}"
    assert lines[: place - 1] + lines[place:] == steps
    assert not lines[place - 1].startswith("The answer")


def test_a_trace_of_sentences_in_two_languages() -> None:
    english = "Ann has 3 + 4 = 7 pens. She sells 2.5 of them. 7 - 2.5 = 4.5 are left."
    chinese = "安有3+4=7支笔。她卖了2支。剩下7-2=5支。"
    for text, spaced in ((english, True), (chinese, False)):
        trace, [(place, later)] = splice(text, 1, random.Random(3))
        pieces = split_steps(text)
        assert len(pieces) == 3
        assert pieces[later - 1].strip() + " " + BACK in trace
        assert (f"{BACK} " in trace) == spaced
        assert delete_back(trace) == text
        assert place < later


def test_too_short_to_splice() -> None:
    assert splice("3 + 4 = 7. The answer is 7.", 1, random.Random(1)) == (
        "3 + 4 = 7. The answer is 7.",
        [],
    )


def test_displayed_formulas_and_headings_are_not_torn() -> None:
    text = "## Step 1\nWe have\n\\[\nx = 3\n\\]\n**Step 2**\nSo x + 1 = 4.\n\nThe answer is 4."
    pieces = [piece.strip() for piece in split_steps(text)]
    assert pieces == [
        "## Step 1\nWe have",
        "\\[\nx = 3\n\\]",
        "**Step 2**\nSo x + 1 = 4.",
        "The answer is 4.",
    ]


# Counted by hand: what derives something is a step; givens, headings and the final answer are not.
LABELLED = [
    ("Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether.\n#### 72", 2),
    ("Weng earns 12/60 = $0.2 per minute.\nIn 50 minutes, she earned 0.2 x 50 = $10.\n#### 10", 2),
    ("There are 15 trees originally. Then there were 21 trees after some more were planted. "
     "So there must have been 21 - 15 = 6. The answer is 6.", 2),
    ("The answer is 5.", 0),
    ("\\boxed{5}", 0),
    ("Ann has 3 pens.\nBob has 4 pens.\n3 + 4 = 7\nThe answer is \\boxed{7}.", 1),
    ("12 + 7 = 19. The answer is 19.", 1),
    ("Let x be the number. Then 2x + 3 = 11. Subtract 3: 2x = 8. Divide by 2: x = 4. "
     "The answer is 4.", 3),
    ("### Step 1\nThe sum is 3 + 4 = 7.\n### Step 2\nTwice that is 2 * 7 = 14.\n"
     "### Answer\nThe answer is 14.", 2),
    ("**Step 1: add**\n3 + 4 = 7\n\n**Step 2: double**\n7 * 2 = 14\n\n#### 14", 2),
    ("We factor:\n\\[\nx^2 - 5x + 6 = (x - 2)(x - 3)\n\\]\nTherefore x = 2 or x = 3.\n"
     "The answer is $\\boxed{2, 3}$.", 2),
    ("Because every even number greater than two is divisible by two, it is not prime.\n"
     "The answer is 2.", 1),
    ("So the answer is 12.", 0),
    ("Hence, \\boxed{12}.", 0),
    ("Since a < b and b < c, a < c.\nTherefore the smallest of all is a.\nThe answer is a.", 2),
    ("The rectangle is 3 by 4.\nIts area is 3 \\cdot 4 = 12.\nIts perimeter is 2(3+4) = 14.\n"
     "Thus the final answer is 12 + 14 = 26.", 2),
    ("安有3个苹果。又买了4个。所以一共有3+4=7个。答案是7。", 1),
    ("设数为x。由题意得2x=8。解得x=4。最终答案：4", 2),
    ("因为三角形内角和是180度，所以第三个角是180-90-30=60度。\n答案是 \\boxed{60}。", 1),
    ("步骤1：\n3+4=7\n步骤2：\n7×2=14\n答案是14。", 2),
    ("She eats three for breakfast and bakes 4 muffins so she eats 3 + 4 = 7\n"
     "The ducks lay 16 - 7 = 9\nA: 9", 2),
    ("It costs $5.\nA: 5", 0),
    ("First compute $\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}$. Then multiply by 6 to get 5, "
     "which means that the whole is five. The answer is 5.", 2),
    ("1. Add: 3 + 4 = 7.\n2. Double: 7 * 2 = 14.\n3. The answer is 14.", 2),
    ("", 0),
]  # fmt: skip


@pytest.mark.parametrize(("solution", "steps"), LABELLED)
def test_steps_are_counted_as_by_hand(solution: str, steps: int) -> None:
    assert count_steps(solution) == steps
