"""995 pairs with the reason why they are one answer or two, and what either grader says of them."""

import json
from pathlib import Path

import pytest

from megatron_math.answers.equal import equal_many, equal_without_algebra
from megatron_math.answers.rules import CHECKS, JIUZHANG3, OURS, STEPS
from megatron_math.answers.steps import tidy

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden.jsonl").open()]


def test_the_file_is_what_it_says() -> None:
    pairs = [(row["answer"], row["reference"]) for row in GOLDEN]
    assert len(set(pairs)) == len(pairs) >= 500
    assert 0.4 < sum(row["equal"] for row in GOLDEN) / len(GOLDEN) < 0.6
    assert all(row["reason"] for row in GOLDEN)


@pytest.fixture(scope="module")
def verdicts() -> list:
    return equal_many([(row["answer"], row["reference"]) for row in GOLDEN])


def test_every_pair_gets_its_verdict(verdicts: list) -> None:
    wrong = [
        (row["answer"], row["reference"], row["reason"], verdict.how)
        for row, verdict in zip(GOLDEN, verdicts, strict=True)
        if verdict.correct != row["equal"]
    ]
    assert wrong == []


def test_no_pair_ends_in_an_error_or_a_timeout(verdicts: list) -> None:
    assert not {v.how for v in verdicts} & {"error", "timeout", "died", "too long"}


def test_the_second_opinion_changes_no_verdict_and_is_kept() -> None:
    some = GOLDEN[::30]  # math-verify takes tens of milliseconds a pair
    pairs = [(row["answer"], row["reference"]) for row in some]
    verdicts = equal_many(pairs, second_opinion=True)
    assert [v.correct for v in verdicts] == [row["equal"] for row in some]
    disputed = [v for v in verdicts if v.is_disputed]
    assert 0 < len(disputed) < len(some) / 2
    assert sum(v.second is not None for v in verdicts) > 0.9 * len(some)


def test_workers_may_judge_everything() -> None:
    pairs = [(row["answer"], row["reference"]) for row in GOLDEN[::20]]
    whole = equal_many(pairs, all_killable=True)
    assert whole == equal_many(pairs)


@pytest.mark.parametrize(
    ("rule", "answer", "reference"),
    [
        ("choice", "Option D", "D"),
        ("number", "0.50", "1/2"),
        ("units", "15 cm", "15 m"),
        ("percent value", "25%", "1/4"),
        ("list", "2 and 5", "5 and 2"),
        ("rounding", "0.666667", "2/3"),
        ("elements", "(1,2)", "(1, 2.0)"),
        ("matrix", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2.0\end{pmatrix}"),
        ("equation", "2x+y=0", "y+2x=0"),
        ("algebra", "x^2-1", "(x-1)(x+1)"),
        ("math-verify", r"\int_0^1 x dx", r"\frac{1}{2}"),
        ("words", "esay", "easy"),
        ("unicode", "５", "5"),
        ("wrappers", r"\text{yes}", "yes"),
        ("money", r"\$5", "5"),
        ("percent", r"5\%", "5%"),
        ("fractions", r"\dfrac{a}{b}", r"\frac{a}{b}"),
        ("degree", r"30^\circ", "30"),
        ("thousands", r"1{,}000", "1000"),
        ("spacing", r"5\!6", "56"),
        ("math signs", r"\(5\)", "5"),
        ("final stop", "x+1.", "x+1"),
        ("prefix", "x = 5", "5"),
        ("powers of ten", "3 x 10^8", "300000000"),
        ("chinese numerals", "十二", "12"),
        ("number words", "twelve", "12"),
    ],
)
def test_every_rule_can_be_switched_off(rule: str, answer: str, reference: str) -> None:
    """Without the rule (and without what would also decide) the pair is another, or undecided."""
    others = {"algebra", "math-verify", "elements"} - {rule}
    on, off = OURS, OURS.without(rule)
    if rule not in ("algebra", "math-verify", "elements", "matrix", "equation"):
        on, off = on.without(*others), off.without(*others)
    if rule in STEPS:
        assert tidy(answer, on.steps) != tidy(answer, off.steps)
        return
    assert rule in CHECKS
    off = off.without("math-verify")
    said = [equal_many([(answer, reference)], rules=rules)[0] for rules in (on, off)]
    assert (said[0].correct, said[0].how) != (said[1].correct, said[1].how)


def test_every_rule_is_tried() -> None:
    tried = test_every_rule_can_be_switched_off.pytestmark[0].args[1]  # type: ignore[attr-defined]
    names = {rule for rule, _, _ in tried}
    loose = {"tolerance", "percent any", "loose brackets"}
    assert names | loose == set(STEPS) | set(CHECKS)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("0.66666", "2/3"), ("3.1416", r"\pi"), ("0.5", "50"), ("5000", "50"), ("15 cm", "15 m"),
     ("[1,2]", "(1,2)"), ("1, 2", "[1,2]")],
)  # fmt: skip
def test_jiuzhang3s_rules_accept_more(answer: str, reference: str) -> None:
    """Its published scores were made so; its false positives come with it."""
    assert not equal_many([(answer, reference)])[0].correct
    assert equal_many([(answer, reference)], rules=JIUZHANG3)[0].correct


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="no rule 'chioce'"):
        OURS.without("chioce")


def test_cheap_rules_decide_most(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "eval/math-oai.jsonl").open()]
    answers = [row["answer"] for row in rows]
    shifted = zip(answers, answers[1:] + answers[:1], strict=True)
    undecided = sum(equal_without_algebra(a, r) is None for a, r in shifted)
    assert undecided < len(rows) / 2
