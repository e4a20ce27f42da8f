"""What every tokenizer offers, whatever engine is behind it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.files import sha256_json


class Tokenizer(ABC):
    """Text to ids and back.

    kind: the name Megatron's flags use. path: the file it was read from. size: highest id + 1,
    special ids included. eod_id: ends every document. bos_id: None where there is none. adds_bos:
    whether the tokenizer's own files ask for `bos_id` at the start of a document. fingerprint:
    sha256 of the engine's file and these ids; equal fingerprints mean equal ids for every text.
    """

    kind: str
    path: Path
    size: int
    eod_id: int
    bos_id: int | None
    adds_bos: bool
    fingerprint: str

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; no special tokens are added."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens leave no text."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write its own files, so that load_tokenizer(folder) has the same fingerprint."""

    @abstractmethod
    def save_hf(self, folder: Path) -> None:
        """Write a folder that transformers' AutoTokenizer loads and that gives the same ids.

        Raises UserError when a converted tokenizer gives other ids on the built-in sample; nothing
        is written then.
        """

    def encode(self, text: str) -> list[int]:
        """Ids of one text; no special tokens are added."""
        return self.encode_batch([text])[0]

    def encode_flat(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray]:
        """All ids one after another (int32) and the length of each text (int32)."""
        rows = self.encode_batch(texts)
        lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
        tokens = np.empty(int(lengths.sum(dtype=np.int64)), dtype=np.int32)
        end = 0
        for row in rows:
            start, end = end, end + len(row)
            tokens[start:end] = row
        return tokens, lengths

    def describe(self) -> dict[str, Any]:
        """What an index's sidecar keeps of the tokenizer."""
        return {
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            "size": self.size,
            "eod": self.eod_id,
            "bos": self.bos_id,
        }


def fingerprint_of(engine_sha256: str, *, eod_id: int, bos_id: int | None, adds_bos: bool) -> str:
    """sha256 over everything that decides which ids a document becomes."""
    return sha256_json(
        {"engine": engine_sha256, "eod": eod_id, "bos": bos_id, "adds_bos": adds_bos}
    )
