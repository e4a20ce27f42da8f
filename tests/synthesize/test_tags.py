"""The form of answers: what is read, what is refused, and the reason for it."""

import pytest

from megatron_math.synthesize.methods.diversification import SOLUTIONS
from megatron_math.synthesize.methods.expansion import TAGS
from megatron_math.synthesize.tags import Unusable, final_answer, first_word, one_of, read_tags

NAMES = ("Check", "Step", "Quote")
GOOD = {"Check": "wrong", "Step": "2", "Quote": "3 + 4 = 8\nand more"}


@pytest.mark.parametrize(
    "text",
    [
        "Check: wrong\nStep: 2\nQuote: 3 + 4 = 8\nand more",
        "\n\n  Check:   wrong  \n\nStep: 2\n\nQuote:\n3 + 4 = 8\nand more\n\n",
        "**Check:** wrong\n**Step:** 2\n**Quote:** 3 + 4 = 8\nand more",
        "**Check**: wrong\n### Step: 2\n- Quote: 3 + 4 = 8\nand more",
        "check：wrong\nSTEP： 2\nquote：3 + 4 = 8\nand more",
        "<think>Check: correct, no...\n</think>\nCheck: wrong\nStep: 2\nQuote: 3 + 4 = 8\nand more",
        "```\nCheck: wrong\nStep: 2\nQuote: 3 + 4 = 8\nand more\n```",
        "```text\nCheck: wrong\nStep: 2\nQuote: 3 + 4 = 8\nand more\n```\n",
    ],
)
def test_forms_that_are_read(text: str) -> None:
    assert read_tags(text, NAMES) == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no 'Check:'"),
        ("Check: wrong\nStep: 2", "no 'Quote:'"),
        ("Sure!\nCheck: wrong\nStep: 2\nQuote: x", "text before the first tag"),
        ("Check: wrong\nStep: 2\nStep: 3\nQuote: x", "more than one 'Step:'"),
        ("Step: 2\nCheck: wrong\nQuote: x", "tags out of order"),
        ("Check: wrong\nStep:\nQuote: x", "nothing behind 'Step:'"),
        ("Check wrong\nStep: 2\nQuote: x", "text before the first tag"),
        ("Checks: wrong\nStep: 2\nQuote: x", "text before the first tag"),
        ("<think>Check: wrong\nStep: 2\nQuote: x", "text before the first tag"),
        ("I would rather talk about the weather.", "text before the first tag"),
    ],
)
def test_forms_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as refusal:
        read_tags(text, NAMES)
    assert refusal.value.reason == reason


def test_a_step_with_a_number_is_no_tag() -> None:
    text = "Check: wrong\nStep: 2\nQuote: Step 2: add\nStep 3: double"
    assert read_tags(text, NAMES)["Quote"] == "Step 2: add\nStep 3: double"


def test_tags_with_numbers_are_told_apart() -> None:
    text = "\n".join(f"{name}: text of {name}" for name in TAGS)
    assert read_tags(text, TAGS) == {name: f"text of {name}" for name in TAGS}
    assert read_tags("Solution  1: a\nSolution 2:b", SOLUTIONS) == {
        "Solution 1": "a",
        "Solution 2": "b",
    }


@pytest.mark.parametrize("value", ["accept", " Accept. ", "**accept**", "`ACCEPT`", "accept。"])
def test_words_are_read(value: str) -> None:
    assert one_of(value, "Check", ("accept", "refuse")) == "accept"
    assert first_word(f"Check: {value}\nmore", "Check", ("accept", "refuse")) == "accept"


@pytest.mark.parametrize("value", ["accept or refuse", "yes", "", "not accept", "accepted"])
def test_other_words_are_not(value: str) -> None:
    with pytest.raises(Unusable, match="is none of accept, refuse"):
        one_of(value, "Check", ("accept", "refuse"))


def test_the_first_line_counts() -> None:
    with pytest.raises(Unusable, match="does not begin with 'Check:'"):
        first_word("Well.\nCheck: correct", "Check", ("correct", "wrong"))


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("3 + 4 = 7\nThe answer is \\boxed{7}.", "7"),
        ("3+4=7\n答案是 \\boxed{7}。", "7"),
        ("The answer is 1/2.", "1/2"),
        ("so\n#### 12", "12"),
    ],
)
def test_final_answers(solution: str, answer: str) -> None:
    assert final_answer(solution) == answer


def test_a_last_number_is_no_final_answer() -> None:
    with pytest.raises(Unusable, match="no final answer"):
        final_answer("3 + 4 = 7")
