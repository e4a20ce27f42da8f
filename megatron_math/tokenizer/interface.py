"""What every tokenizer offers, whatever engine is behind it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.files import sha256_json
from megatron_math.tokenizer.encoder import (
    Encoder,
    Int32s,
    Int64s,
    Row,
    UInt8s,
    differing_texts,
    open_encoder,
)

if TYPE_CHECKING:
    from megatron_math.tokenizer.chat_template import ChatTemplate

_opening = RLock()  # one engine is loaded at a time, and none twice
UNKNOWN_BYTES = 2**40  # stands for the length of a token whose text is not known beforehand


class Tokenizer(ABC):
    """Text to ids and back.

    kind: the name Megatron's flags use. library: the one that defines the ids. path: the file it
    was read from. size: highest id + 1, special ids included. eod_id: ends every document. bos_id:
    None where there is none. adds_bos: whether the tokenizer's own files ask for `bos_id` at the
    start of a document. fingerprint: sha256 of the engine's file and these ids; equal fingerprints
    mean equal ids for every text.
    """

    kind: str
    library: str
    path: Path
    size: int
    eod_id: int
    bos_id: int | None
    adds_bos: bool
    fingerprint: str
    checker: Encoder | None = None  # the reference in a process of its own, where there is one
    loaded_engine: Any = None  # what `load_engine` gave ahead of `open_encoder`

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

    def encode_rows(self, texts: Sequence[str]) -> Sequence[Row]:
        """Ids of each text, in the form that costs least."""
        return self.encode_batch(texts)

    def open_encoder(self, engine: str = "auto") -> Encoder:
        """The encoder that all threads of this process share.

        engine: "reference", or "auto": the fast engine where it loads this tokenizer and gives the
        reference's ids on the built-in sample and on every special and added token, alone and
        inside text; else the reference. `why` of the encoder says which was the case.
        """
        with _opening:
            if engine not in self._encoders:
                self._encoders[engine] = open_encoder(self, engine)
            return self._encoders[engine]

    def open_checker(self) -> Encoder:
        """The reference for a few texts at a time."""
        return self.checker or self.open_encoder("reference")

    def check_encoder(self, encoder: Encoder, text: UInt8s, offsets: Int64s) -> list[int]:
        """Indexes of the texts to which `encoder` gives other ids than the reference does."""
        return differing_texts(encoder, self.open_checker(), text, offsets)

    def token_ends(self, text: UInt8s, offsets: Int64s, ids: Int32s, lengths: Int32s) -> Int64s:
        """For each token the byte, inside its own text, at which it ends; int64[tokens].

        ids, lengths: what an encoder gave for text and offsets. Where tokens spell the text byte
        by byte, their lengths are added up, so that a token may end inside a character; else the
        reference library's offsets are taken, which end with a character. ValueError when ids are
        not the reference's and so have no offsets.
        """
        ends = np.zeros(len(ids), dtype=np.int64)
        counted = np.zeros(len(lengths), dtype=bool)
        last = np.cumsum(lengths, dtype=np.int64)
        if self._token_bytes is not None and len(ids):
            spelt = self._token_bytes[ids]
            if self._bytes_ahead:
                is_first = np.zeros(len(ids), dtype=bool)
                is_first[(last - lengths)[lengths > 0]] = True
                if self._splits is not None:
                    is_first[1:] |= self._splits[ids[:-1]]
                    is_first &= ~self._splits[ids]
                spelt -= is_first * self._bytes_ahead
            np.cumsum(spelt, out=ends)
            whole = np.concatenate([[0], ends])
            ends -= np.repeat(whole[last - lengths], lengths)
            counted = whole[last] - whole[last - lengths] == np.diff(offsets)
        for i in np.flatnonzero(~counted).tolist():
            tokens = slice(int(last[i] - lengths[i]), int(last[i]))
            content = bytes(text[offsets[i] : offsets[i + 1]])
            expected, its_ends = self._reference_ends(content.decode("utf-8"))
            if expected != ids[tokens].tolist():
                raise ValueError(
                    f"text {i} ({content[:40]!r}) has other ids than {self.library} gives, so that "
                    f"nothing tells where its tokens end"
                )
            ends[tokens] = np.maximum.accumulate(its_ends)
        return ends

    @cached_property
    def chat_template(self) -> "ChatTemplate | None":
        """What the files beside it say about chats; None where they say nothing.

        Raises UserError when the template cannot be read.
        """
        from megatron_math.tokenizer.chat_template import read_chat_template

        return read_chat_template(self)

    @abstractmethod
    def engine_json(self) -> str | bytes:
        """A tokenizer.json that gives the same ids; UserError where there is none.

        Names of special tokens are taken as `encode` takes them. Raises UserError where the
        tokenizer has no such form.
        """

    @abstractmethod
    def with_names_as_ids(self) -> "Tokenizer":
        """This tokenizer, or its form in which special tokens' names in a text become their ids."""

    @abstractmethod
    def special_names(self) -> dict[str, int]:
        """Name and id of every special token."""

    @abstractmethod
    def names_in_text(self) -> list[str]:
        """Names that an engine might take for one token where they stand in a text."""

    @cached_property
    @abstractmethod
    def _token_bytes(self) -> Int64s | None:
        """By id, bytes of text that a token spells, UNKNOWN_BYTES where that is not fixed.

        None where tokens do not spell the text as it is.
        """

    @property
    def _bytes_ahead(self) -> int:
        """What the first token of a text spells before the text."""
        return 0

    @cached_property
    def _splits(self) -> npt.NDArray[np.bool_] | None:
        """By id, the tokens behind which a text begins anew; None where there are none."""
        return None

    @abstractmethod
    def _reference_ends(self, text: str) -> tuple[list[int], Int64s]:
        """(ids, byte at which each ends) as the reference library has them."""

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        return {}

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
