"""Small corpora, small units, and a tokenizer that is trained in a moment."""

from pathlib import Path

import pytest
from small_jobs import shrink_units

from megatron_math.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(params=["HuggingFaceTokenizer", "SentencePieceTokenizer", "TikTokenizer"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_files: dict[str, Path]) -> Tokenizer:
    """Each kind in turn."""
    return load_tokenizer(tokenizer_files[request.param], request.param)


@pytest.fixture
def sentencepiece(tokenizer_files: dict[str, Path]) -> Tokenizer:
    return load_tokenizer(tokenizer_files["SentencePieceTokenizer"])


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 4 KiB, blocks of 512 bytes, a journal every 2 KiB."""
    shrink_units(monkeypatch.setattr)
