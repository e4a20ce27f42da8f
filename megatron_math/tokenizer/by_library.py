"""What is the same for every tokenizer.json, whoever wrote it: the `tokenizers` library runs it."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Engine

from megatron_math.tokenizer.encoder import Int64s
from megatron_math.tokenizer.interface import UNKNOWN_BYTES, Tokenizer
from megatron_math.tokenizer.sentencepiece import SPACE
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
        if self._spells_bytes:
            letters = set(byte_letters().values())

            def spelt(token: str) -> int:
                return len(token) if letters.issuperset(token) else len(token.encode("utf-8"))

        elif self._spells_pieces:

            def spelt(token: str) -> int:
                is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
                return 1 if is_byte else len(token.replace(SPACE, " ").encode("utf-8"))

        else:
            return None
        lengths = np.full(self.size, UNKNOWN_BYTES, dtype=np.int64)
        for token, index in self._engine.get_vocab(with_added_tokens=False).items():
            lengths[index] = spelt(token)
        for index, added in self._engine.get_added_tokens_decoder().items():
            moves_others = added.lstrip or added.rstrip or (added.normalized and self._steps)
            lengths[index] = UNKNOWN_BYTES if moves_others else len(added.content.encode("utf-8"))
        unknown = self._content["model"].get("unk_token")
        if unknown is not None and not self._content["model"].get("byte_fallback"):
            lengths[self._engine.token_to_id(unknown)] = UNKNOWN_BYTES
        return lengths

    @cached_property
    def _splits(self) -> npt.NDArray[np.bool_] | None:
        splits = np.zeros(self.size, dtype=bool)
        splits[list(self._engine.get_added_tokens_decoder())] = True
        return splits

    @property
    def _bytes_ahead(self) -> int:
        return sum(step["type"] == "Prepend" for step in self._steps)

    @property
    def _spells_bytes(self) -> bool:
        """Byte-level, and nothing is done to the text before."""
        split = self._content.get("pre_tokenizer") or {}
        steps = [s for s in split.get("pretokenizers", [split]) if s.get("type") == "ByteLevel"]
        as_it_is = bool(steps) and not any(step.get("add_prefix_space") for step in steps)
        return as_it_is and not self._steps and not self._content["model"].get("byte_fallback")

    @property
    def _spells_pieces(self) -> bool:
        """SentencePiece's pieces, with nothing done to the text but to its spaces."""
        known = (
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        )
        as_it_is = bool(self._steps) and all(step in known for step in self._steps)
        no_cuts = self._content.get("pre_tokenizer") is None
        return as_it_is and no_cuts and bool(self._content["model"].get("byte_fallback"))

    @cached_property
    def _steps(self) -> list[dict[str, Any]]:
        """What the normaliser does, one thing after another."""
        normalizer = self._content.get("normalizer") or {"normalizers": []}
        return normalizer.get("normalizers", [normalizer])

    @cached_property
    def _content(self) -> dict[str, Any]:
        return json.loads(self._bytes)

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
