"""Words of texts: the definitions by example, and equal to the twin on hostile bytes."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_math.native import reference_words
from megatron_math.native.words import TABLE_END, Splitting, _characters, character, split

# (splitting, text, words)
EXAMPLES = [
    (Splitting.PLAIN, "Mira's 48 loaves, x_1 = 2.50!", "mira s 48 loaves x_1 2 50"),
    (Splitting.PLAIN, "ＦＵＬＬ　ｗｉｄｔｈ ﬁne x²", "full width fine x2"),
    (Splitting.PLAIN, "cafe\u0301 café exa\u00admple", "cafe\u0301 cafe\u0301 example"),
    (Splitting.PLAIN, "等差数列abcの", "等 差 数 列 abc の"),
    (Splitting.PLAIN, "수학 문제", "수 학 문 제"),
    (Splitting.PLAIN, "हिन्दी", "हिन्दी"),
    (Splitting.MATH, "Mira’s 48 x_1 = 2.50", "miras 48 x 1 2.5"),
    (Splitting.MATH, r"1,000 1,\!000 1{,}000 1\,000", "1000 1000 1000 1000"),
    (Splitting.MATH, "1,2345 12,34 1234,567", "1 2345 12 34 1234 567"),
    (Splitting.MATH, "0.50 .5 007 2.0 3. 1.2.3 a.5", "0.5 0.5 7 2 3 1.2 3 a 5"),
    (Splitting.MATH, r"$\left( 3x^{2} \right)$", "3 x 2"),
    (Splitting.MATH, r"\frac12 \dfrac{1}{2} \frac 1 {2} \binom52 \sqrt{2}", "1 2 1 2 1 2 5 2 2"),
    (Splitting.MATH, r"\begin{align*} a &\le \pi \\ b \end{align*}", "a pi b"),
    (Splitting.MATH, "𝑥 + 𝟓 − ½", "x 5 1 2"),
    (Splitting.NUMBERS, "Three of 1,200 + 5 pens, one each", "# of # + # pens one each"),
    (Splitting.NUMBERS, r"\frac12 x^2 − 3 \le well-known 4", "frac # # x ^ # - # le well known #"),
    (Splitting.CHUNKS, "What  is 3 - 4?\n", "what is 3 - 4?"),
]  # fmt: skip


@pytest.mark.parametrize(("splitting", "text", "words"), EXAMPLES)
def test_definition(splitting: Splitting, text: str, words: str) -> None:
    assert b" ".join(word.form for word in split(text.encode(), splitting)).decode() == words


PIECES = st.sampled_from(
    [
        *("\\frac", "\\left", "\\,", "\\!", "\\begin{x}", "{,}", "\\pi", "\\", "$", "12", "1,000"),
        *(".5", "0", "'", "’", " ", "\n", "a", "Bc", "_", "é", "e\u0301", "\u0301", "中", "ｶﾞ"),
        *("½", "²", "\u200b", "\u00a0", "ﬁ", "𝟓", "= ", "\U00020001", "three", "-", "^", "?", "\0"),
        *("한", "\x01", "😀", "−x"),
    ]
)  # fmt: skip
HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode()),
    st.tuples(st.lists(PIECES, max_size=9), st.binary(max_size=3)).map(
        lambda both: both[1].join(piece.encode() for piece in both[0])
    ),
)


@given(HOSTILE, st.sampled_from(Splitting))
@settings(max_examples=600, deadline=None)
@example(b"\xed\xa0\x80a", Splitting.PLAIN)
@example(b"a" * 5000, Splitting.MATH)
@example("中".encode()[:2], Splitting.PLAIN)
def test_equal_to_the_twin(text: bytes, splitting: Splitting) -> None:
    assert split(text, splitting) == reference_words.split(text, splitting)


def test_a_word_of_a_megabyte() -> None:
    for text in (b"x" * 1_000_000, "é".encode() * 500_000, b"7" * 1_000_000, b"\\" * 1_000_000):
        for splitting in Splitting:
            words = split(text, splitting)
            if words:
                assert (words[0].begin, words[-1].end) == (0, len(text))


def test_splitting_does_not_depend_on_what_was_split_before() -> None:
    long = split(b"some words " * 100, Splitting.MATH)
    assert split(b"a", Splitting.MATH) == [(b"a", 0, 1)]
    assert len(long) == 200


def test_the_table_of_characters_has_what_is_said_of_each():
    kinds, offsets, forms, _ = _characters(chunks=False)
    assert len(kinds) == TABLE_END - 0x80
    for place, kind in enumerate(kinds):
        if not 0xD800 <= 0x80 + place < 0xE000:
            form = forms[offsets[place] : offsets[place + 1]]
            assert (kind, form) == character(chr(0x80 + place)), hex(0x80 + place)
