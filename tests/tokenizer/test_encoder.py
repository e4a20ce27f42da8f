"""The fast engine gives the reference's ids, or does not run."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corner_texts import in_context, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from megatron_math.tokenizer import Tokenizer, load_tokenizer
from megatron_math.tokenizer.encoder import (
    Encoder,
    ReferenceEncoder,
    flat_texts,
    open_encoder,
    probes_of,
    split_texts,
)
from megatron_math.tokenizer.sample import SAMPLE
from megatron_math.tokenizer.young_characters import young_texts

gigatoken = pytest.importorskip("gigatoken", reason="the fast engine has no wheel here")
ALL = ("SentencePieceTokenizer", "TikTokenizer", "HuggingFaceTokenizer", "DeepSeek")


class Altered(Encoder):
    """Another encoder with a fault: whatever token `wrong` is becomes the next one."""

    def __init__(self, encoder: Encoder, wrong: int) -> None:
        self.name, self.why, self._encoder, self._wrong = "altered", "", encoder, wrong

    def encode_flat(self, text: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = self._encoder.encode_flat(text, offsets)
        return np.where(ids == self._wrong, ids + 1, ids), lengths


def rows(encoder: Encoder, several: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode_flat(*flat_texts(several))
    assert ids.dtype == lengths.dtype == np.int32
    ends = np.cumsum(lengths)
    assert len(ids) == (ends[-1] if len(ends) else 0)
    return [ids[end - n : end].tolist() for end, n in zip(ends, lengths, strict=True)]


@pytest.mark.parametrize("name", ALL)
def test_the_fast_engine_runs_every_kind(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[name]
    encoder = tokenizer.open_encoder()
    assert encoder.name.startswith("gigatoken 0."), encoder.why
    assert encoder.why.startswith(f"same ids as {tokenizer.library} on the ")
    assert rows(encoder, list(SAMPLE)) == tokenizer.encode_batch(SAMPLE)
    assert rows(encoder, []) == []
    assert rows(encoder, ["", "", "one", ""]) == [[], [], tokenizer.encode("one"), []]
    reference = tokenizer.open_encoder("reference")
    assert reference.name.startswith(f"{tokenizer.library} ")
    assert rows(reference, list(SAMPLE)) == tokenizer.encode_batch(SAMPLE)
    assert tokenizer.open_encoder() is encoder


@pytest.mark.parametrize("name", ALL)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(several=st.lists(texts(), min_size=1, max_size=12))
def test_ids_are_the_references(
    name: str, tokenizers: dict[str, Tokenizer], several: list[str]
) -> None:
    tokenizer = tokenizers[name]
    assert rows(tokenizer.open_encoder(), several) == tokenizer.encode_batch(several)


@pytest.mark.parametrize("name", ["SentencePieceTokenizer", "TikTokenizer"])
def test_names_as_ids_are_those_of_the_exported_tokenizer(
    name: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """In chats a special token's name is its id; plain encoding keeps it as letters."""
    original = tokenizers[name]
    named = original.with_names_as_ids()
    original.save_hf(tmp_path)
    exported = load_tokenizer(tmp_path)
    probes = [*SAMPLE, *probes_of(original.special_names())]
    assert named.open_encoder().name.startswith("gigatoken"), named.open_encoder().why
    assert rows(named.open_encoder(), probes) == exported.encode_batch(probes)
    special, token_id = next(iter(original.special_names().items()))
    assert named.encode(special) == [token_id]
    assert token_id not in original.encode(special)
    assert named.describe() == original.describe()


def test_characters_that_not_all_libraries_know(tokenizers: dict[str, Tokenizer]) -> None:
    """Unicode 17 is known to the engine alone: such texts are the reference's, and only they."""
    young = [0x88F, 0xA7CE, 0xFBC3, 0x10940, 0x16EA0, 0x1E6C0, 0x1F8D0, 0x323B0, 0x33479]
    known = [0x88E, 0x897 - 1, 0x3042, 0xFF0C, 0x4E00, 0x1F600, 0x10400, 0x20000, 0x10FFFF]
    several = [f"{c}'s a{c}b1{c} {c}{c}\n{c}9" for c in map(chr, [*young, *known])]
    text, offsets = flat_texts(["", *several, "", "one"])
    assert young_texts(text, offsets).tolist() == list(range(1, len(young) + 1))
    assert young_texts(text, offsets[3:]).tolist() == list(range(len(young) - 2))
    num_different = 0
    for tokenizer in tokenizers.values():
        encoder = tokenizer.open_encoder()
        assert tokenizer.check_encoder(encoder, text, offsets) == []
        ids, lengths = encoder._encode_all(text, offsets)  # type: ignore[attr-defined]
        expected, expected_lengths = tokenizer.open_encoder("reference").encode_flat(text, offsets)
        num_different += not np.array_equal(ids, expected)
    assert num_different >= 2  # without the guard


@pytest.mark.parametrize("name", ["TikTokenizer", "DeepSeek"])
def test_characters_from_all_planes(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    """tests/tokenizer/every_character.py takes them all."""
    tokenizer = tokenizers[name]
    buffers = flat_texts(in_context(code_point) for code_point in range(7, 0xD800, 37))
    assert tokenizer.check_encoder(tokenizer.open_encoder(), *buffers) == []
    buffers = flat_texts(in_context(code_point) for code_point in range(0xE000, 0x110000, 997))
    assert tokenizer.check_encoder(tokenizer.open_encoder(), *buffers) == []


def test_slices_of_a_buffer_and_batches_of_any_size(tokenizers: dict[str, Tokenizer]) -> None:
    """Offsets need not begin at 0, and a call may hold more than the engine takes at once."""
    tokenizer = tokenizers["DeepSeek"]
    encoder = tokenizer.open_encoder()
    many = [sample * (1 + i % 7) for i in range(400) for sample in SAMPLE]
    many[1000] = "".join(SAMPLE) * 1600  # larger than one batch by itself
    text, offsets = flat_texts(many)
    assert len(text) > 2 * 2**21
    ids, lengths = encoder.encode_flat(text, offsets)
    part, part_lengths = encoder.encode_flat(text, offsets[700:1200])
    assert np.array_equal(part_lengths, lengths[700:1199])
    first = lengths[:700].sum()
    assert np.array_equal(part, ids[first : first + part_lengths.sum()])
    assert tokenizer.check_encoder(encoder, text, offsets[990:1010]) == []
    assert split_texts(text, offsets[5:7]) == many[5:6]


@pytest.mark.parametrize("name", ALL)
def test_threads_share_one_encoder(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    encoder = tokenizers[name].open_encoder()
    several = [sample + str(i) for i in range(60) for sample in SAMPLE]
    expected = rows(encoder, several)
    found: list[Any] = [None] * 6

    def work(number: int) -> None:
        found[number] = rows(encoder, several[number:] + several[:number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, their_rows in enumerate(found):
        assert their_rows == expected[number:] + expected[:number]


def test_a_difference_is_found_where_it_is(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["TikTokenizer"]
    fast = tokenizer.open_encoder()
    text, offsets = flat_texts(["one two", "three", "", "two three", "four"])
    assert tokenizer.check_encoder(fast, text, offsets) == []
    wrong = tokenizer.encode(" two")[0]
    assert tokenizer.check_encoder(Altered(fast, wrong), text, offsets) == [0]
    wrong = tokenizer.encode("three")[0]
    assert tokenizer.check_encoder(Altered(fast, wrong), text, offsets) == [1]


def test_an_engine_that_differs_on_one_special_token_does_not_run(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_math.tokenizer import gigatoken as module

    tokenizer = tokenizers["HuggingFaceTokenizer"]
    right = module.GigatokenEncoder.encode_flat
    wrong = list(tokenizer.special_names().values())[-1]

    def encode_flat(self: Any, text: np.ndarray, offsets: np.ndarray) -> tuple[Any, Any]:
        ids, lengths = right(self, text, offsets)
        return np.where(ids == wrong, 0, ids), lengths

    monkeypatch.setattr(module.GigatokenEncoder, "encode_flat", encode_flat)
    encoder = open_encoder(tokenizer, "auto")
    assert isinstance(encoder, ReferenceEncoder)
    assert "gives other ids on 3 of " in encoder.why


def test_the_reference_runs_where_the_engine_is_missing(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder = open_encoder(tokenizers["TikTokenizer"], "auto")
    assert encoder.name.startswith("tiktoken ")
    assert encoder.why.startswith("gigatoken-cachefix cannot be used here")


def test_a_batch_on_which_the_engine_fails_goes_to_the_reference(
    tokenizers: dict[str, Tokenizer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class PanicException(BaseException):  # as Rust's looks from here
        pass

    class Failing:
        def encode_batch(self, *_: Any, **__: Any) -> Any:
            raise PanicException("index out of bounds")

    tokenizer = tokenizers["HuggingFaceTokenizer"]
    encoder = open_encoder(tokenizer, "auto")
    monkeypatch.setattr(encoder, "_engine", Failing())
    assert rows(encoder, list(SAMPLE)) == tokenizer.encode_batch(SAMPLE)
    assert "index out of bounds" in caplog.text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"model_type": "unigram", "byte_fallback": True}, "cannot load it"),
        ({"model_type": "bpe", "byte_fallback": False}, "gigatoken"),
        ({"model_type": "bpe", "byte_fallback": True}, "gigatoken"),  # normalises
    ],
    ids=["unigram", "no byte fallback", "nfkc"],
)
def test_models_beyond_the_engine(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    """Whatever the engine makes of them, ids are the reference's."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE * 3), model_writer=model, vocab_size=500, minloglevel=2,
        hard_vocab_limit=False, **options,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    encoder = tokenizer.open_encoder()
    assert rows(encoder, list(SAMPLE)) == tokenizer.encode_batch(SAMPLE)
    if options["model_type"] == "unigram" or not options["byte_fallback"]:
        assert encoder.name.startswith("sentencepiece ")
        assert why in encoder.why


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_added_tokens_that_take_white_space(
    flag: str, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    source = tokenizer_files["HuggingFaceTokenizer"]
    content = json.loads(source.read_text())
    content["added_tokens"][0][flag] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = (source.parent / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(tmp_path)
    probes = ["a <s> b", "a<s>b", "  <s>  ", "<s> <s>", "x\n<s>\ny"]
    assert rows(tokenizer.open_encoder(), probes) == tokenizer.encode_batch(probes)
    plain = load_tokenizer(source)
    assert plain.encode_batch(probes) != tokenizer.encode_batch(probes)  # the flag matters here


LONG = {
    "a million spaces": "'a' + ' ' * 1_000_000 + 'b'",
    "no space": "''.join(random.Random(1).choices('abcdefgh', k=400_000))",
    "one letter": "'a' * 400_000",
    "no ASCII": "''.join(map(chr, random.Random(2).choices(range(0x80, 0x800), k=200_000)))",
    "line ends": "'\\n' * 400_000",
}
LONG_CODE = """
import random, sys
from megatron_math.tokenizer import load_tokenizer
from megatron_math.tokenizer.encoder import flat_texts
encoder = load_tokenizer(sys.argv[1]).open_encoder()
for expression in sys.argv[2:]:
    text, offsets = flat_texts([eval(expression)])
    ids, lengths = encoder.encode_flat(text, offsets)
    assert len(ids) == lengths[0] > 1000
"""


@pytest.mark.parametrize("name", ["SentencePieceTokenizer", "TikTokenizer", "DeepSeek"])
def test_long_runs_neither_hang_nor_crash(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    command = [sys.executable, "-c", LONG_CODE, str(tokenizers[name].path), *LONG.values()]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_long_runs_are_the_references(tokenizers: dict[str, Tokenizer]) -> None:
    for expression in ("' ' * 30_001", "'ab' * 20_000", "'\\u00e9\\u4e00' * 9_000", "'0' * 50_000"):
        text = "x" + eval(expression) + "y"
        for tokenizer in tokenizers.values():
            assert rows(tokenizer.open_encoder(), [text]) == [tokenizer.encode(text)]


def test_importing_stays_light() -> None:
    code = (
        "import sys, megatron_math.tokenizer; "
        "sys.exit(bool({'gigatoken', 'awkward', 'jinja2', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
