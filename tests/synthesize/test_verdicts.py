"""Each check alone on texts judged by hand, the rule that accepts, and votes."""

import json
from collections import Counter

import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.synthesize.audit import plant
from megatron_math.synthesize.verdicts.asked import vote
from megatron_math.synthesize.verdicts.rule import NAMES, AcceptRule, is_disputed
from megatron_math.synthesize.verdicts.substitution import answer_solves
from megatron_math.synthesize.verdicts.symbolic import statements_hold


@pytest.mark.parametrize(
    "solution",
    [
        "48 / 2 = 24",
        "She sold 48/2 = <<48/2=24>>24 clips in May.\nTogether 48+24 = <<48+24=72>>72 clips.",
        "She earned 0.2 x 50 = $10.",
        "$12 * 5 = $60",
        "It costs 1,200 - 450 = 750 dollars.",
        "\\frac{3}{4} \\times 8 = 6",
        "$\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}$",
        "3 \\cdot 4 = 12",
        "2^{10} = 1024",
        "10 / 3 = 3.33",
        "2 / 3 = 0.667",
        "10 / 50 * 100 = 20%",
        "10 / 50 = 20%",
        "20% * 50 = 10",
        "168/20% = 840 students",
        "2.5% * 200 = 5",
        "4 \u00d7 5 \u00f7 2 = 10",
        "x = 15 / 3 = 5",
        "The area is 3 * 4 = 12 square metres, so twice that is 2 * 12 = 24.",
        "一共3+4=7个。再买2*5=10个。",
        "他有 20 - 5 = 15 元。",
        "7 \u2212 2 = 5",
    ],
)
def test_statements_that_hold(solution):
    assert statements_hold(solution) is True


@pytest.mark.parametrize(
    "solution",
    [
        "48 / 2 = 25",
        "3 + 4 = 7\n7 * 2 = 15",
        "3 + 4 = 8 = 7 + 1 and 2 + 2 = 5",
        "She sold 48/2 = <<48/2=24>>23 clips.",
        "10 / 3 = 3.5",
        "10 / 3 = 3",
        "\\frac{1}{2} + \\frac{1}{3} = \\frac{2}{5}",
        "一共3+4=8个。",
        "5 + 3 = 8 * 2 = 16",
    ],
)
def test_statements_that_do_not(solution):
    assert statements_hold(solution) is False


@pytest.mark.parametrize(
    "solution",
    [
        "",
        "There is nothing to compute.",
        "x + 3 = 7",
        "2x = 10",
        "6 = 3Y",
        "3 feet = 36 inches",
        "half of 6 = 3",
        "20% of 50 = 10",
        "17 / 5 = 3 remainder 2",
        "17 / 5 = 3 R 2",
        "f(3) = 9",
        "\\sqrt{16} = 4",
        "\\log 100 = 2",
        "5! = 120",
        "an addition 25 + her original 98 = 123",
        "0.333... = 1/3",
        "3 = 5 mod 2",
        "60 / 3/4 = 80",
        "17/3 = 5 and 2/3 loads",
        "a == b",
        "2 hours * 60 = 120 minutes",
    ],
)
def test_statements_that_are_left_out(solution):
    assert statements_hold(solution) is None


@pytest.mark.parametrize(
    "text",
    [
        "9^(9^(9^(9^9))) = 1",
        "(((9^99)^99)^99)^99 = 1",
        "(" * 90 + "1" + ")" * 90 + " = 1",
        "1 + " * 40 + "1 = 41",
        "3 = 3 " * 20_000,
        "=" * 50_000,
        "1 " * 50_000 + "= 2",
        "a " * 50_000 + "1 = 1",
        "\\frac{" * 20_000,
    ],
)
def test_no_text_takes_long(text):
    import time

    started = time.monotonic()
    statements_hold(text)
    answer_solves("Solve for x: " + text, "3")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("problem", "answer", "verdict"),
    [
        ("Solve 3x + 5 = 20.", "5", True),
        ("Solve 3x + 5 = 20.", "6", False),
        ("Solve for $x$: $2(x - 1) = x + 4$.", "x = 6", True),
        ("What is x if x/4 - 1 = 2?", "12", True),
        ("Find y if 0.5y = 3.", "6", True),
        ("Find the value of x: x^2 - 5x + 6 = 0", "2, 3", True),
        ("Solve x^2 - 5x + 6 = 0.", "2 and 4", False),
        ("解方程：3x+5=20", "5", True),
        ("若 2x+1=7，求 x 的值。", "4", False),
        ("If 3x + 5 = 20, what is x + 2?", "7", None),
        ("Solve x + y = 3.", "1", None),
        ("Solve x + y = 3 and x - y = 1.", "2", None),
        ("Solve x^2 = 2.", "\\sqrt{2}", None),
        ("Ann has 3 pens. How many are 2 more?", "5", None),
        ("Solve 3x + 5 = 20.", None, None),
    ],
)
def test_substitution(problem, answer, verdict):
    assert answer_solves(problem, answer) is verdict


def rule(**keys):
    return parse_section(AcceptRule, keys, "synthesize.accept")


def test_the_rule():
    all_of = rule(all=["reference", "symbolic"])
    assert all_of.against({"reference": True, "symbolic": None}) == []
    assert all_of.against({"reference": True, "symbolic": False}) == ["symbolic"]
    any_of = rule(any=["reference", "agreement"])
    assert any_of.against({"reference": None, "agreement": True}) == []
    assert any_of.against({"reference": None, "agreement": None}) == [
        "none of reference, agreement"
    ]
    none_of = rule(none=["reference"])
    assert none_of.against({"reference": None}) == []
    assert none_of.against({"reference": True}) == ["not reference"]
    assert rule().against({"reference": False}) == []


def test_models_are_asked_only_while_it_matters():
    both = rule(all=["symbolic", "teacher"])
    assert both.may_accept({"symbolic": True}, ["teacher"])
    assert not both.may_accept({"symbolic": False}, ["teacher"])
    assert rule(any=["reference", "agreement"]).may_accept({"reference": False}, ["agreement"])


def test_unknown_and_contrary_names_are_refused():
    with pytest.raises(UserError, match="symbolc"):
        rule(all=["symbolc"])
    with pytest.raises(UserError, match="unknown key 'every'"):
        rule(every=["symbolic"])
    with pytest.raises(UserError, match="asked to be true and not to be"):
        rule(all=["teacher"], none=["teacher"])
    assert len(NAMES) == len(set(NAMES))


def test_disputes():
    assert is_disputed({"reference": True, "symbolic": False})
    assert not is_disputed({"reference": True, "symbolic": None})
    assert is_disputed({"judgement": False, "reference": False})
    assert not is_disputed({"parsed": True, "different": False, "reference": True})


def test_votes():
    assert vote(["5", "5.0", "6", None], 0.5) == [True, True, False, None]
    assert vote(["1/2", "0.5", "\\frac{1}{2}", "2"], 0.75) == [True, True, True, False]
    assert vote([], 0.5) == []


def test_statements_of_real_solutions(shared_data):
    """GSM8K: 7,473 solutions by people, 5,276 by models. A false statement in a right solution is
    mostly one that is false indeed; the bounds are what was measured, rounded up."""
    people = Counter()
    for line in (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines():
        people[statements_hold(json.loads(line)["answer"])] += 1
    assert people[False] <= 0.005 * 7473
    assert people[True] >= 0.8 * 7473
    models = Counter()
    for line in (shared_data / "gsm8k" / "model_solutions.jsonl").read_text().splitlines():
        for attempt in json.loads(line).values():
            if isinstance(attempt, dict):
                verdict = statements_hold(attempt["solution"])
                models[attempt["is_correct"], verdict] += 1
    right = sum(n for (correct, _), n in models.items() if correct)
    assert models[True, False] <= 0.01 * right
    assert models[False, False] >= 160


def test_planted_errors_change_what_they_say():
    import random

    solution = "3 + 4 = 7\n7 * 2 = 14\nThe answer is \\boxed{14}."
    assert plant(solution, "14", "intact", random.Random(1)) == (solution, "14")
    for seed in range(20):
        wrong, answer = plant(solution, "14", "answer", random.Random(seed))
        assert answer != "14"
        assert wrong == f"3 + 4 = 7\n7 * 2 = 14\nThe answer is \\boxed{{{answer}}}."
        wrong, answer = plant(solution, "14", "result", random.Random(seed))
        assert statements_hold(wrong) is False
    assert plant("No equation. The answer is x.", "x", "answer", random.Random(1)) is None
    assert plant("No equation. The answer is 3.", "3", "result", random.Random(1)) is None
