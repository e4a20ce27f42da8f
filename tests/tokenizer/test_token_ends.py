"""Where tokens end in their text, beside the offsets of the libraries themselves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from corner_texts import texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer as Engine

from megatron_math.tokenizer import Tokenizer, load_tokenizer
from megatron_math.tokenizer.encoder import flat_texts
from megatron_math.tokenizer.sample import SAMPLE

ALL = ("SentencePieceTokenizer", "TikTokenizer", "HuggingFaceTokenizer", "DeepSeek")


def ends_of(tokenizer: Tokenizer, several: list[str]) -> list[list[int]]:
    text, offsets = flat_texts(several)
    ids, lengths = tokenizer.open_encoder().encode_flat(text, offsets)
    ends = tokenizer.token_ends(text, offsets, ids, lengths)
    assert ends.dtype == np.int64
    assert len(ends) == len(ids)
    return [row.tolist() for row in np.split(ends, np.cumsum(lengths)[:-1])]


def to_character_ends(ends: list[int], text: str) -> list[int]:
    """The first character's end at or behind each byte."""
    bounds = np.cumsum([0, *(len(character.encode()) for character in text)])
    return bounds[np.searchsorted(bounds, ends)].tolist()


def library_ends(engine: Engine, text: str) -> list[int]:
    """Ends of the tokens in bytes, counted from the library's characters."""
    bounds = [0, *np.cumsum([len(character.encode()) for character in text]).tolist()]
    return [bounds[end] for _, end in engine.encode(text, add_special_tokens=False).offsets]


def offsets_engine(tokenizer: Tokenizer) -> Engine:
    content = tokenizer.engine_json()
    engine = Engine.from_str(content if isinstance(content, str) else content.decode())
    engine.post_processor = None  # trims white space from offsets
    return engine


@pytest.mark.parametrize("name", ["TikTokenizer", "HuggingFaceTokenizer", "DeepSeek", "Converted"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(several=st.lists(texts(), min_size=1, max_size=6))
def test_ends_are_the_librarys(
    name: str,
    tokenizers: dict[str, Tokenizer],
    converted: Tokenizer,
    engines: dict[str, Engine],
    several: list[str],
) -> None:
    """Up to the end of a character, the library's; and exact inside one, which it does not tell."""
    tokenizer = converted if name == "Converted" else tokenizers[name]
    for text, ends in zip(several, ends_of(tokenizer, several), strict=True):
        expected = np.maximum.accumulate([0, *library_ends(engines[name], text)])[1:]
        steps = np.diff([0, *ends])
        assert name == "Converted" or (steps > 0).all()
        # A piece that is nothing but the space in front ends where it begins; the library has it
        # end behind the first character.
        found = np.array(to_character_ends(ends, text))
        assert found[steps > 0].tolist() == expected[steps > 0].tolist()
        assert (steps >= 0).all()
        assert (ends or [0])[-1] == len(text.encode())


@pytest.fixture(scope="session")
def converted(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """Pieces with a space in front of every stretch between special tokens, as Llama 2 has it."""
    return tokenizers["SentencePieceTokenizer"].with_names_as_ids()


@pytest.fixture(scope="session")
def engines(tokenizers: dict[str, Tokenizer], converted: Tokenizer) -> dict[str, Engine]:
    every = tokenizers | {"Converted": converted}
    return {name: offsets_engine(tokenizer) for name, tokenizer in every.items()}


def test_most_texts_need_no_offsets_of_the_library(
    tokenizers: dict[str, Tokenizer], converted: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a hundred times slower."""
    for tokenizer in (*tokenizers.values(), converted):
        monkeypatch.setattr(type(tokenizer), "_reference_ends", None)
        for ends, text in zip(ends_of(tokenizer, [*SAMPLE, "<s>a </s>  b"]), SAMPLE, strict=False):
            assert (ends or [0])[-1] == len(text.encode())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(several=st.lists(texts(), min_size=1, max_size=6))
def test_sentencepiece_ends_spell_the_text(
    tokenizers: dict[str, Tokenizer], several: list[str]
) -> None:
    """A token ends where the text up to it is what it and its forerunners decode to."""
    tokenizer = tokenizers["SentencePieceTokenizer"]
    for text, ends in zip(several, ends_of(tokenizer, several), strict=True):
        ids, data = tokenizer.encode(text), text.encode()
        assert len(ends) == len(ids)
        assert (ends or [0])[-1] == len(data)
        if "\u2581" in text:
            continue  # decodes to a space
        for number, end in enumerate(ends):
            spelt = tokenizer.decode(ids[: number + 1])
            whole = data[:end].decode("utf-8", errors="ignore")
            assert spelt.rstrip("\ufffd") == whole.rstrip("\ufffd")


def test_a_byte_inside_a_character_is_told(tokenizers: dict[str, Tokenizer]) -> None:
    text = "a🜚b"  # a character that none of them has as one token
    for tokenizer in tokenizers.values():
        (ends,) = ends_of(tokenizer, [text])
        assert ends[-1] == 6
        assert {2, 3, 4} & set(ends)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", None])
@pytest.mark.parametrize("prefix", [False, True])
def test_what_is_not_spelt_byte_by_byte_has_the_librarys_offsets(
    flag: str | None, prefix: bool, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    """Tokens that swallow white space, a space put in front, a normaliser that changes lengths."""
    source = tokenizer_files["HuggingFaceTokenizer"]
    content = json.loads(source.read_text())
    if flag is not None:
        content["added_tokens"][0][flag] = True
    else:
        content["normalizer"] = {"type": "NFC"}
    content["pre_tokenizer"]["add_prefix_space"] = prefix
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = (source.parent / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(tmp_path)
    engine = offsets_engine(tokenizer)
    several = [*SAMPLE, "a <s> b", "  <s>\n<s>  é e\u0301e\u0301 x", "<s>", "e\u0301 " * 5]
    for text, ends in zip(several, ends_of(tokenizer, several), strict=True):
        expected = np.maximum.accumulate(library_ends(engine, text) or [0]).tolist()
        assert to_character_ends(ends, text) == (expected if ends else [])


def test_a_model_that_normalises_has_the_librarys_offsets(tmp_path: Path) -> None:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE * 3), model_writer=model, vocab_size=400, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    text = "  one   two  é three"
    (ends,) = ends_of(tokenizer, [text])
    whole = text.encode()
    ids = tokenizer.encode(text)
    for number in range(len(ids)):
        words = tokenizer.decode(ids[: number + 1]).split()
        assert "".join(words).replace("⁇", "") in "".join(whole[: ends[number]].decode().split())
    assert ends[-1] == len(whole)


def test_other_ids_have_no_ends(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["TikTokenizer"]
    text, offsets = flat_texts(["one two"])
    ids = np.array(tokenizer.encode("one three"), dtype=np.int32)
    with pytest.raises(ValueError, match="other ids than tiktoken gives"):
        tokenizer.token_ends(text, offsets, ids, np.array([len(ids)], dtype=np.int32))
