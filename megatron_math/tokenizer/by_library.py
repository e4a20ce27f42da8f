"""What is the same for every tokenizer.json, whoever wrote it: the `tokenizers` library runs it."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Engine

from megatron_math.tokenizer.encoder import Int64s
from megatron_math.tokenizer.interface import UNKNOWN_BYTES, Tokenizer
from megatron_math.tokenizer.tiktoken import byte_letters


class LibraryTokenizer(Tokenizer):
    """A special token's name inside a text becomes its id. `_engine`, `_bytes` are the subclass's.

    _bytes: the tokenizer.json.
    """

    library = "tokenizers"
    _engine: Engine
    _bytes: bytes

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def engine_json(self) -> bytes:
        return self._bytes

    def with_names_as_ids(self) -> Tokenizer:
        return self

    def special_names(self) -> dict[str, int]:
        added = self._engine.get_added_tokens_decoder()
        return {token.content: index for index, token in added.items() if token.special}

    def names_in_text(self) -> list[str]:
        return [token.content for token in self._engine.get_added_tokens_decoder().values()]

    @cached_property
    def _token_bytes(self) -> Int64s | None:
        content = json.loads(self._bytes)
        split = content.get("pre_tokenizer") or {}
        steps = split.get("pretokenizers", [split])
        letters_for_bytes = [step for step in steps if step.get("type") == "ByteLevel"]
        normalizer = content.get("normalizer") or {"normalizers": []}
        if (
            not letters_for_bytes
            or any(step.get("add_prefix_space") for step in letters_for_bytes)
            or content["model"].get("byte_fallback")
            or normalizer.get("normalizers", True)
        ):
            return None
        letters = set(byte_letters().values())
        lengths = np.full(self.size, UNKNOWN_BYTES, dtype=np.int64)
        for token, index in self._engine.get_vocab(with_added_tokens=False).items():
            spelt = letters.issuperset(token)
            lengths[index] = len(token) if spelt else len(token.encode("utf-8"))
        for index, added in self._engine.get_added_tokens_decoder().items():
            takes_spaces = added.lstrip or added.rstrip
            lengths[index] = UNKNOWN_BYTES if takes_spaces else len(added.content.encode("utf-8"))
        return lengths

    def _reference_ends(self, text: str) -> tuple[list[int], Int64s]:
        encoding = self._offsets_engine.encode(text, add_special_tokens=False)
        starts = character_starts(text)
        return encoding.ids, starts[np.array([end for _, end in encoding.offsets], dtype=np.int64)]

    @cached_property
    def _offsets_engine(self) -> Engine:
        engine = Engine.from_str(self._engine.to_str())
        engine.post_processor = None  # may trim white space from the offsets
        return engine


class ConvertedTokenizer(LibraryTokenizer):
    """The tokenizer.json form of another tokenizer, where special tokens' names become ids."""

    def __init__(self, original: Tokenizer, engine: Engine) -> None:
        self._original, self._engine = original, engine
        self._bytes = engine.to_str().encode("utf-8")
        self.kind, self.path, self.size = original.kind, original.path, original.size
        self.eod_id, self.bos_id = original.eod_id, original.bos_id
        self.adds_bos, self.fingerprint = original.adds_bos, original.fingerprint

    def decode(self, ids: Sequence[int]) -> str:
        return self._original.decode(ids)

    def save(self, folder: Path) -> None:
        self._original.save(folder)

    def save_hf(self, folder: Path) -> None:
        self._original.save_hf(folder)


def character_starts(text: str) -> Int64s:
    """The byte at which each character begins in UTF-8, and the number of bytes last."""
    data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    return np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data)).astype(np.int64)
