"""Rows looked for in texts: equal to the twin, for any number of threads, on any bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import reference_row_search
from megatron_math.native.row_search import Need, RowSearcher, Searched, SearchRule
from megatron_math.native.words import Splitting

RULES = [
    SearchRule(Splitting.PLAIN, 5, 3, Need.SEED),
    SearchRule(Splitting.MATH, 4, 3, Need.SHARE, 0.6),
    SearchRule(Splitting.NUMBERS, 4, 4, Need.SHARE, 0.9),
    SearchRule(Splitting.CHUNKS, 5, 3, Need.WHOLE, whole_texts=True),
]


def searcher(rows: list[bytes], rules: list[SearchRule] = RULES) -> RowSearcher:
    made = RowSearcher(rules)
    for number in range(len(rules)):
        made.add_rows(number, rows)
    made.build()
    return made


# Few words, so that rows and texts share runs, with changes in between.
WORDS = st.sampled_from(["a", "b", "c", "d", "1", "22", "é", "中", "\\pi", "it's", "?"])
ROW = st.lists(WORDS, min_size=1, max_size=14).map(" ".join)


@st.composite
def texts_from_rows(draw, rows):
    parts = draw(st.lists(st.one_of(ROW, st.sampled_from(rows)), max_size=4))
    text = " ".join(parts)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from([" ", ", ", "x ", "9", ""])) + text[at + 1 :]
    return text.encode() + draw(st.sampled_from([b"", b"\xff", b"\xe4\xb8"]))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hits_are_those_of_the_twin(data):
    rows = data.draw(st.lists(ROW, min_size=1, max_size=5))
    texts = data.draw(st.lists(texts_from_rows(rows), max_size=4))
    encoded = [row.encode() for row in rows]
    expected = reference_row_search.search(RULES, [encoded] * len(RULES), texts)
    made = searcher(encoded)
    assert made.search(texts, num_threads=1) == expected
    assert made.search(texts, num_threads=3) == expected
    for number, rule in enumerate(RULES):
        said = RowSearcher(RULES).add_rows(number, encoded)
        assert said == [reference_row_search.searched(rule, row) for row in encoded]


def test_many_texts_in_many_threads_give_one_result():
    rows = [f"row {i} of many rows that hold {i * 7} words".encode() for i in range(20)]
    texts = [b" filler ".join(rows[i % 20 : i % 20 + i % 4]) for i in range(500)]
    made = searcher(rows)
    one = made.search(texts, num_threads=1)
    assert len(one) > 500
    assert one == made.search(texts, num_threads=2) == made.search(texts, num_threads=7)


def test_a_hash_alone_decides_nothing():
    """Every run of words of a text whose words are permuted is compared; none is the row's."""
    made = searcher([b"one two three four five six"], [RULES[0]])
    assert made.search([b"two one three four five six", b"six five four three two one"]) == []


def test_repetition_is_not_quadratic():
    """A row of one word, and texts of nothing else: some seconds would be hours."""
    row, text = b"a " * 30, b"a " * 200_000
    hits = searcher([row]).search([text], num_threads=1)
    assert [hit.words for hit in hits] == [30, 30, 30]


def test_what_is_not_looked_for_is_said():
    rule = SearchRule(Splitting.NUMBERS, 4, 4, Need.SHARE, 0.9)
    rows = [b"", b"?!", b"only words stand here now", b"3 pens", b"Ann has 3 red pens"]
    assert RowSearcher([rule]).add_rows(0, rows) == [
        Searched.NO_WORDS, Searched.NO_WORDS, Searched.NO_NUMBERS, Searched.TOO_SHORT, Searched.YES
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SearchRule(Splitting.PLAIN, 0, 3, Need.SEED), "seeds of 0 words"),
        (SearchRule(Splitting.PLAIN, 10, 2, Need.SEED), "rows have 3 words or as many as a seed"),
        (SearchRule(Splitting.PLAIN, 10, 3, Need.SHARE, 1.5), "shares are 0 to 1"),
    ],
)
def test_rules_that_cannot_be(rule, message):
    with pytest.raises(ValueError, match=message):
        RowSearcher([rule])


def test_order_of_calls():
    made = RowSearcher(RULES)
    with pytest.raises(ValueError, match="build the searcher"):
        made.search([b"a"])
    with pytest.raises(ValueError, match="rule 9 of 4"):
        made.add_rows(9, [b"a"])
    made.build()
    with pytest.raises(ValueError, match="before the searcher is built"):
        made.add_rows(0, [b"a b c"])
    assert made.search([]) == []
    with pytest.raises(ValueError, match="num_threads"):
        made.search([b"a"], num_threads=-1)
