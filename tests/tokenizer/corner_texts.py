"""Texts that take a tokenizer to its corners, for hypothesis."""

from hypothesis import strategies as st

LETTERS = "abcdefgzABCZ'’`-_ 0123456789.,;:!?()[]{}<>|/\\$%^&*+=~#@\"\t\n\r"
CLUSTERS = (
    "👩\u200d🔬",
    "🏳\ufe0f\u200d🌈",
    "e\u0301",
    "\u0301",
    "ﬁ",
    "½",
    "Ａ",
    "İ",
    "Ǆ",
    "ك",
    "हि",
    "각",
)
NAMES = ("<s>", "</s>", "<unk>", "<0x0A>", "<|eot_id|>", "<｜User｜>", "<think>", "<")


def _runs(letters: str) -> st.SearchStrategy[str]:
    return st.builds(str.__mul__, st.sampled_from(letters), st.integers(1, 80))


def texts() -> st.SearchStrategy[str]:
    """Pieces of every kind of character, joined with nothing between them."""
    piece = st.one_of(
        st.text(max_size=12),  # all planes, controls and unassigned among them, no surrogates
        st.text(alphabet=LETTERS, max_size=20),
        _runs(" \t\n\r\u00a0\u3000\u2581=-*a0"),
        st.text(alphabet="0123456789", max_size=12),
        st.sampled_from(["'s", "'LL", "'Re", "don't", "’s", "'ſ", "I'VE", "\r\n", "\n \n", " \n"]),
        st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=8),
        st.text(alphabet=st.characters(min_codepoint=0x3040, max_codepoint=0x30FF), max_size=8),
        st.text(alphabet=st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF), max_size=5),
        st.sampled_from(CLUSTERS),
        st.text(alphabet=st.characters(max_codepoint=0x9F, categories=["Cc"]), max_size=6),
        st.sampled_from(NAMES),
    )  # fmt: skip
    return st.lists(piece, max_size=12).map("".join)


def in_context(code_point: int) -> str:
    """A character beside letters, digits, white space, punctuation and itself."""
    c = chr(code_point)
    return f"a{c}b1{c} {c}{c}\n{c}'s{c}9"
