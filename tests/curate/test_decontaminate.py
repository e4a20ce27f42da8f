"""Planted leaks get the expected verdict under each rule; clean neighbours stay."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.curate.decontaminate import BenchmarkText, Rule, Searcher

LONG = (
    "Mira's bakery sells 48 loaves on Monday, and half as many on Tuesday. "
    "How many loaves does the bakery sell in both days together?"
)
SHORT = "What is 17 - 9 + 4?"
CHINESE = "已知等差数列的首项为三公差为五求第二十项的值"
LATEX = (
    r"Let $f(x) = x^2 + 3x - 7$ and $g(x) = \frac{x}{2}$. Compute $f(g(4))$ and "
    r"simplify the result completely."
)
BENCHMARK = {"long": LONG, "short": SHORT, "chinese": CHINESE, "latex": LATEX}


def searcher(rule: Rule) -> Searcher:
    return Searcher([BenchmarkText("exam", row, text) for row, text in BENCHMARK.items()], rule)


# (what is planted, the text, row found by ngram10, row found by exact)
PLANTED: list[tuple[str, str, str | None, str | None]] = [
    ("verbatim", LONG, "long", "long"),
    ("inside a page", f"Read this. {LONG} Easy, is it not?", "long", "long"),
    ("spacing and case", LONG.upper().replace(" ", " \n "), "long", "long"),
    ("punctuation changed", LONG.replace(",", ";").replace("?", "!"), "long", None),
    ("numbers changed", LONG.replace("48", "52"), "long", None),
    ("ten words of it", " ".join(LONG.split()[-11:]), "long", None),
    ("nine words of it", " ".join(LONG.split()[-9:]), None, None),
    ("every ninth word changed", "Mira's bakery sells 48 loaves on Friday, and half as many on "
     "Tuesday. How many buns does the bakery sell in both days together?", None, None),
    ("short, verbatim", f"Quick: {SHORT} Now.", "short", "short"),
    ("short, punctuation changed", "what is 17, 9, 4", "short", None),
    ("short, other numbers", "What is 17 - 9 + 5?", None, None),
    ("short, cut", "What is 17 -", None, None),
    ("chinese", f"题目：{CHINESE}。", "chinese", None),
    ("chinese as a text of its own", CHINESE, "chinese", "chinese"),
    ("latex in other delimiters", LATEX.replace("$", "\\("), "latex", None),
    ("a clean neighbour", "A bakery sells bread on Monday and cakes on Tuesday.", None, None),
    ("nothing", "", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("case", "text", "by_ngram", "by_exact"), PLANTED)
def test_planted_leaks(case: str, text: str, by_ngram: str | None, by_exact: str | None) -> None:
    rules: dict[Rule, str | None] = {"ngram10": by_ngram, "exact": by_exact}
    for rule, expected in rules.items():
        hit = searcher(rule).find(text)
        assert (hit and hit.row) == expected, (case, rule)
        if hit:
            found = text[slice(*hit.span)]
            assert searcher(rule).find(found), "the span holds what was found"
            assert hit.benchmark == "exam"


def test_operators_count_under_exact() -> None:
    """Templates differ in one sign: ten words of it are shared, the problem is another one."""
    rows = [BenchmarkText("heldout", "0", "Compute the value of this expression with care: 3 + 4.")]
    other = "Compute the value of this expression with care: 3 - 4."
    assert Searcher(rows, "exact").find(other) is None
    assert Searcher(rows, "ngram10").find(other)


def test_rows_too_short_are_counted_and_still_found_by_exact() -> None:
    rows = [BenchmarkText("exam", "0", "1 + 1"), BenchmarkText("exam", "1", LONG)]
    ngram, exact = Searcher(rows, "ngram10"), Searcher(rows, "exact")
    assert (ngram.num_rows["exam"], ngram.num_too_short["exam"]) == (1, 1)
    assert (exact.num_rows["exam"], exact.num_too_short["exam"]) == (2, 0)
    assert ngram.find("1 + 1") is None
    whole = Searcher([BenchmarkText("exam", "0", "2 + 2?")] * 2, "exact")
    assert whole.find(" 2  + 2?")
    two = Searcher([BenchmarkText("exam", "0", "twice two?")], "exact")
    assert two.find("TWICE two?")
    assert two.find("What is twice two?") is None


def test_a_row_without_words_is_an_error() -> None:
    for rule in ("ngram10", "exact"):
        with pytest.raises(UserError, match="row 7: the text has no words"):
            Searcher([BenchmarkText("exam", "7", " \n")], rule)  # type: ignore[arg-type]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_gsm8k_test_in_gsm8k_train_is_the_known_number(shared_data: Path) -> None:
    """Measured before, with other code: 11 of 7,473 questions, 123 with the solutions."""
    train = read(shared_data / "gsm8k" / "train.jsonl")
    test = read(shared_data / "gsm8k" / "test.jsonl")
    for keys, expected in ((("question",), 11), (("question", "answer"), 123)):
        rows = [
            BenchmarkText("gsm8k", str(number), "\n".join(row[key] for key in keys))
            for number, row in enumerate(test)
        ]
        found = Searcher(rows, "ngram10")
        assert (
            sum(found.find("\n".join(row[key] for key in keys)) is not None for row in train)
            == expected
        )
    exact = Searcher(
        [BenchmarkText("gsm8k", str(i), row["question"]) for i, row in enumerate(test)], "exact"
    )
    assert not any(exact.find(row["question"]) for row in train)
