"""From rows to flat buffers of token ids: what one worker does with one block."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.records import record_from_row
from megatron_math.index.blocks import Block
from megatron_math.native.index_writer import token_dtype
from megatron_math.tokenizer import Tokenizer


@dataclass(frozen=True)
class Recipe:
    """How a row becomes text: the string under `key`, or a record rendered in `template`.

    key None: the row is a record (`text`, `problem` and `solution`, or `input` and `output`).
    """

    key: str | None = None
    template: str | None = None

    def text_of(self, row: Any, where: str) -> str:
        """UserError, naming `where` (file and line), when the row does not have it."""
        if self.key is None:
            record = record_from_row(row, default_id="", default_source="", where=where)
            if self.template is not None and record.text is not None:
                raise UserError(f"{where}: a template is set, but this record is plain 'text'")
            return record.render(self.template)
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}")
        if self.key not in row:
            raise UserError(f"{where}: no key '{self.key}'; found the keys {sorted(row)}")
        if not isinstance(row[self.key], str):
            raise UserError(f"{where}: '{self.key}' must be a string, found {row[self.key]!r:.80}")
        return row[self.key]


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents of one block under one recipe. tokens: flat, the index's dtype; lengths: int32."""

    tokens: npt.NDArray
    lengths: npt.NDArray[np.int32]
    text_bytes: int
    num_empty: int  # documents without text: nothing but EOD (and BOS)


@dataclass(frozen=True)
class EncodedBlock:
    """What comes back from a worker: one EncodedDocuments a recipe, and the documents' ids."""

    path: Path
    disk_bytes: int
    record_ids: list[str]
    columns: list[EncodedDocuments]


def read_texts(block: Block, recipes: Sequence[Recipe]) -> tuple[list[str], list[list[str]]]:
    """(record id of each row, for each recipe the text of each row). UserError at a bad row."""
    record_ids: list[str] = []
    columns: list[list[str]] = [[] for _ in recipes]
    for number, row in block.rows():
        where = f"{block.path}, line {number}"
        for column, recipe in zip(columns, recipes, strict=True):
            text = recipe.text_of(row, where)
            if not _is_unicode(text):
                raise UserError(
                    f"{where}: the text holds half a UTF-16 surrogate pair (like \\ud800), which "
                    f"is no character; repair or drop this line"
                )
            column.append(text)
        identity = row.get("id")
        record_ids.append(f"{block.path.name}:{number}" if identity is None else str(identity))
    return record_ids, columns


def encode_block(
    block: Block, recipes: Sequence[Recipe], tokenizer: Tokenizer, append_eod: bool
) -> EncodedBlock:
    """Tokenize a block; BOS and EOD are put in where tokenizer and `append_eod` say so."""
    record_ids, columns = read_texts(block, recipes)
    encoded = [_encode_column(texts, tokenizer, append_eod) for texts in columns]
    return EncodedBlock(block.path, block.disk_bytes, record_ids, encoded)


def _encode_column(texts: list[str], tokenizer: Tokenizer, append_eod: bool) -> EncodedDocuments:
    tokens, lengths = tokenizer.encode_flat(texts)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    eod_id = tokenizer.eod_id if append_eod else None
    tokens, framed_lengths = frame(tokens, lengths, bos_id, eod_id)
    return EncodedDocuments(
        tokens=tokens.astype(token_dtype(tokenizer.size), copy=False),
        lengths=framed_lengths,
        text_bytes=sum(len(text.encode("utf-8")) for text in texts),
        num_empty=int((lengths == 0).sum()),
    )


def frame(
    tokens: npt.NDArray, lengths: npt.NDArray[np.int32], bos_id: int | None, eod_id: int | None
) -> tuple[npt.NDArray, npt.NDArray[np.int32]]:
    """Put `bos_id` before and `eod_id` behind every document of flat `tokens`."""
    framed_lengths = lengths + np.int32(bos_id is not None) + np.int32(eod_id is not None)
    ends = np.cumsum(framed_lengths, dtype=np.int64)
    framed = np.empty(int(ends[-1]) if len(ends) else 0, dtype=tokens.dtype)
    is_text = np.ones(len(framed), dtype=bool)
    if bos_id is not None:
        framed[ends - framed_lengths] = bos_id
        is_text[ends - framed_lengths] = False
    if eod_id is not None:
        framed[ends - 1] = eod_id
        is_text[ends - 1] = False
    framed[is_text] = tokens
    return framed, framed_lengths


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
