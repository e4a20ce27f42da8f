"""Training a SentencePiece model: exact round trips, digits, determinism, bounded samples."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece
from megatron_math.tokenizer.sample import SAMPLE
from megatron_math.tokenizer.train import BOS_ID, EOS_ID, draw_sample

TEXTS = [
    f"Question: Tom has {a} red and {b} blue marbles.\nHow many marbles are there in all?\n"
    f"Solution: {a} + {b} = {a + b}. The answer is {a + b}."
    for a in range(3, 60)
    for b in range(20, 40)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("trained") / "tokenizer.model"
    train_sentencepiece(TEXTS, path, 400)
    return load_tokenizer(path)


def test_size_and_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.size == 400
    assert (tokenizer.bos_id, tokenizer.eod_id) == (BOS_ID, EOS_ID)
    assert not tokenizer.adds_bos


def test_it_learned_words_of_the_corpus(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" marbles")) == 1
    assert len(tokenizer.encode(" zebra")) > 2


def test_digits_are_single_ids(tokenizer: Tokenizer) -> None:
    """20 to 39 stand in every text, yet '20' must stay two ids, with and without a space."""
    for number in ("20", "39", "57"):
        ids = tokenizer.encode(f"a{number}")
        assert [tokenizer.decode([token]) for token in ids[-2:]] == list(number)
    assert tokenizer.encode(" 20")[-2:] == tokenizer.encode("20")


@pytest.mark.parametrize("text", SAMPLE)
def test_sample_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 100))
def test_generated_text_can_be_decoded_apart(tokenizer: Tokenizer, cut: int) -> None:
    """No dummy prefix: a continuation's text is that of its own ids, leading space included."""
    ids = tokenizer.encode(TEXTS[0])
    assert tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == TEXTS[0]


def test_same_texts_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_sentencepiece(iter(TEXTS), tmp_path / name, 350, sample_bytes=20_000, seed=5)
    train_sentencepiece(iter(TEXTS[:30]), tmp_path / "c", 350)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_long_lines_are_learned_from(tmp_path: Path) -> None:
    """The trainer drops lines beyond its limit in silence; ours are cut to fit instead."""
    train_sentencepiece([" ".join(TEXTS).replace("\n", " ")], tmp_path / "m", 400)
    assert len(load_tokenizer(tmp_path / "m").encode(" marbles")) == 1


def test_the_sample_is_bounded_even_and_repeatable() -> None:
    texts = [f"{number:04d}" for number in range(1000)]
    sample = draw_sample(iter(texts), 400, seed=1)
    assert sum(map(len, sample)) == 400
    assert sample == sorted(sample)
    assert sample == draw_sample(iter(texts), 400, seed=1)
    assert sample != draw_sample(iter(texts), 400, seed=2)
    late = sum(int(text) >= 500 for text in sample)
    assert 30 <= late <= 70  # a sample of the first 400 bytes would hold none
    assert draw_sample(texts, 10**6, seed=1) == texts
    assert draw_sample(["é" * 100], 31, seed=0) == ["é" * 15]


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        ([], 400, "no text to train"),
        (["  \n "], 400, "no text to train"),
        (TEXTS, 200, "too small"),
        (["abc"], 5000, "could be trained on 3 characters"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, texts: list[str], vocab_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_sentencepiece(texts, tmp_path / "m", vocab_size)
    assert not list(tmp_path.iterdir())
