"""Digests of texts are those of the twin, on any text and any bytes."""

import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import reference_text_digests
from megatron_math.native.row_search import flatten
from megatron_math.native.text_digests import digests

SPACES = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace()]
CASED = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).casefold() != chr(c)]


def native(texts: list[str]) -> np.ndarray:
    return digests(*flatten([text.encode("utf-8", "surrogatepass") for text in texts]))


def test_every_character_with_case_and_every_space() -> None:
    assert len(SPACES) > 20
    assert len(CASED) > 1000
    texts = [f"{a}b{a}" for a in [*SPACES, *CASED]] + ["".join(CASED), "".join(SPACES)]
    np.testing.assert_array_equal(native(texts), reference_text_digests.digests(texts))


def test_every_length_around_the_blocks_of_the_hash() -> None:
    texts = ["ab " * n + "x" * k for n in (0, 40, 41, 42, 84, 85, 86) for k in range(4)]
    np.testing.assert_array_equal(native(texts), reference_text_digests.digests(texts))


@given(
    st.lists(
        st.lists(
            st.one_of(
                st.text(),
                st.sampled_from(SPACES),
                st.sampled_from(CASED),
                st.sampled_from(["\ud800", "\udfff", "\0", "\x1c", "中", "😀"]),
            )
        ).map("".join),
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_digests_are_those_of_the_twin(texts: list[str]) -> None:
    np.testing.assert_array_equal(native(texts), reference_text_digests.digests(texts))


def test_the_same_words_have_one_digest_and_others_another() -> None:
    same = native(["Straße  IST\n da", "strasse ist da ", " STRASSE\u2003ist da"])
    assert (same == same[0]).all()
    assert len({one.tobytes() for one in native(["a b", "ab", "a  c", ""])}) == 4
    assert not len(native([]))
