"""From the columns of a block to texts, and from texts to tokens and roles.

A block is whole lines of JSON or some rows of parquet. `scan_block` reads it once for all recipes,
`make_texts` applies one recipe, `encode_texts` tokenizes. Bad rows are entries with a reason and no
exceptions, so that one bad line costs one line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.documents import ROLES
from megatron_math.index.parquet_rows import scan_batch
from megatron_math.index.recipes import Mask, Parts, Recipe, Segments, Verdict, parts_of
from megatron_math.native.index_writer import frame_documents, frame_roles, token_dtype
from megatron_math.native.json_lines import BadLine, Scanned, scan_lines
from megatron_math.native.texts import (
    ByteArray,
    Int64Array,
    Part,
    choose_texts,
    join_texts,
    token_roles,
)
from megatron_math.tokenizer import Tokenizer
from megatron_math.tokenizer.encoder import Encoder

if TYPE_CHECKING:
    import pyarrow

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Speakers:
    """Who speaks where in n texts: text i has the segments firsts[i] to firsts[i + 1].

    firsts: int64[n + 1]; ends: int64, byte of its text at which each segment ends; roles: uint8,
    numbers of ROLES.
    """

    firsts: Int64Array
    ends: Int64Array
    roles: ByteArray

    def select(self, texts: Int64Array) -> "Speakers":
        counts = np.diff(self.firsts)[texts]
        firsts = np.append(0, np.cumsum(counts))
        segments = np.arange(firsts[-1]) + np.repeat(self.firsts[texts] - firsts[:-1], counts)
        return Speakers(firsts, self.ends[segments], self.roles[segments])


@dataclass(frozen=True)
class Texts:
    """The documents of a block under one recipe, in order. None is empty.

    rows: int64[n], line numbers inside the block, from 0; text uint8, offsets int64[n + 1]: UTF-8.
    speakers: None where all texts are plain, so that all their tokens have the role `other`.
    is_chat: bool[n]; None where there is no chat. id_text, id_offsets: record ids by document, of
    no bytes where the row has none. bad: in the order of lines, those that the scanner refused
    among them. num_lines = len(rows) + num_blank + num_empty + len(bad).
    """

    rows: Int64Array
    text: ByteArray
    offsets: Int64Array
    speakers: Speakers | None
    is_chat: Mask | None
    id_text: ByteArray
    id_offsets: Int64Array
    num_lines: int
    num_blank: int
    num_empty: int
    bad: list[BadLine]

    @property
    def num_bytes(self) -> int:
        return len(self.text)

    def strings(self) -> Iterator[str]:
        for begin, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.text[begin:end].tobytes().decode("utf-8")

    def select(self, texts: Int64Array) -> "Texts":
        """Some of the documents, by rising number; the counts and `bad` stay those of the block."""
        text, offsets = choose_texts(self.text, self.offsets, texts)
        id_text, id_offsets = choose_texts(self.id_text, self.id_offsets, texts)
        return replace(
            self,
            rows=self.rows[texts],
            text=text,
            offsets=offsets,
            speakers=None if self.speakers is None else self.speakers.select(texts),
            is_chat=None if self.is_chat is None else self.is_chat[texts],
            id_text=id_text,
            id_offsets=id_offsets,
        )


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents of one block under one recipe, ready to be written.

    tokens: flat, the index's dtype; lengths: int32[n]; both with BOS and EOD. roles: uint8, one a
    token, or None where all of them are `other`. rows, id_text, id_offsets, num_empty: as in Texts.
    text_bytes: of UTF-8.
    """

    tokens: npt.NDArray
    lengths: Int32Array
    roles: ByteArray | None
    rows: Int64Array
    id_text: ByteArray
    id_offsets: Int64Array
    text_bytes: int
    num_empty: int


def scan_block(
    block: "bytes | bytearray | memoryview | ByteArray | pyarrow.RecordBatch",
    recipes: Sequence[Recipe],
) -> Scanned:
    """Everything that these recipes need of a block of lines, or of rows of parquet."""
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe.keys))
    if isinstance(block, bytes | bytearray | memoryview | np.ndarray):
        return scan_lines(block, keys)
    return scan_batch(block, keys)


def make_texts(scanned: Scanned, recipe: Recipe, tokenizer: Tokenizer | None = None) -> Texts:
    """The texts of a block under one of the recipes it was scanned for.

    tokenizer: whose chat template renders chats. Reasons of bad rows, beside the scanner's: "NUL
    character" and "half a surrogate pair" in a text that is used, "no key 'x'", "key 'x' is no
    string", "no text: ...", "plain text where a template is set", "chat: ...". Raises UserError for
    a chat where there is no chat template.
    """
    verdict = Verdict(scanned)
    found = parts_of(scanned, recipe, tokenizer, verdict)
    good = verdict.good_rows()
    chosen = [Part(part.text, part.offsets, part.choice[good]) for part in found.parts]
    if len(chosen) == 1:
        text, offsets = choose_texts(*chosen[0])
        ends = np.diff(offsets)[:, None]
    else:
        text, offsets, ends = join_texts(chosen, len(good))
    filled = np.flatnonzero(np.diff(offsets))
    num_empty = len(good) - len(filled)
    if num_empty:
        good, ends = good[filled], ends[filled]
        offsets = np.append(offsets[filled], offsets[-1:])  # the empty ones have no bytes
    id_text, id_offsets = choose_texts(scanned.ids.text, scanned.ids.offsets, good)
    return Texts(
        rows=scanned.rows[good],
        text=text,
        offsets=offsets,
        speakers=_speakers(good, ends, found),
        is_chat=np.isin(good, list(found.chats)) if found.chats else None,
        id_text=id_text,
        id_offsets=id_offsets,
        num_lines=scanned.num_lines,
        num_blank=scanned.num_blank,
        num_empty=num_empty,
        bad=verdict.bad_lines(),
    )


def _speakers(rows: Int64Array, ends: Int64Array, found: Parts) -> Speakers | None:
    """ends: int64[rows, parts], byte at which each part ends."""
    if all(role == ROLES["other"] for role in found.roles):
        return None
    num_texts, num_parts = ends.shape
    if not found.chats:
        firsts = np.arange(num_texts + 1, dtype=np.int64) * num_parts
        roles = np.tile(np.array(found.roles, np.uint8), num_texts)
        return Speakers(firsts, ends.reshape(-1), roles)
    by_text: list[Segments] = [
        found.chats.get(row) or list(zip(row_ends, found.roles, strict=True))
        for row, row_ends in zip(rows.tolist(), ends.tolist(), strict=True)
    ]
    flat = [segment for segments in by_text for segment in segments]
    return Speakers(
        firsts=np.cumsum([0, *map(len, by_text)], dtype=np.int64),
        ends=np.array([end for end, _ in flat], np.int64),
        roles=np.array([role for _, role in flat], np.uint8),
    )


def encode_texts(
    texts: Texts, tokenizer: Tokenizer, encoder: Encoder, *, append_eod: bool
) -> EncodedDocuments:
    """Tokenize; BOS and EOD are put in where the tokenizer and `append_eod` say so.

    A token has the role of its last byte, BOS is prompt, EOD has the role of the token before it;
    in a plain text all are `other`. Chats are encoded by the chat template's form of the tokenizer
    (by its reference where `encoder` is one): they have the BOS that the template writes, and an
    EOD with which the template ends is the document's. Raises ValueError where roles are asked for
    and `encoder` gives ids that the reference library does not give.
    """
    if texts.is_chat is None:
        framed = _encode_plain(texts, tokenizer, encoder, append_eod)
    elif texts.is_chat.all():
        framed = _encode_chats(texts, tokenizer, encoder, append_eod)
    else:
        groups = [np.flatnonzero(~texts.is_chat), np.flatnonzero(texts.is_chat)]
        plain = _encode_plain(texts.select(groups[0]), tokenizer, encoder, append_eod)
        chats = _encode_chats(texts.select(groups[1]), tokenizer, encoder, append_eod)
        framed = _interleave([plain, chats], groups)
    return EncodedDocuments(
        tokens=framed.tokens,
        lengths=framed.lengths,
        roles=framed.roles,
        rows=texts.rows,
        id_text=texts.id_text,
        id_offsets=texts.id_offsets,
        text_bytes=texts.num_bytes,
        num_empty=texts.num_empty,
    )


def differing_documents(
    texts: Texts,
    encoded: EncodedDocuments,
    tokenizer: Tokenizer,
    *,
    append_eod: bool,
    at_least_bytes: int,
) -> tuple[int, Int64Array]:
    """Compare the first documents with what the reference library makes of them.

    at_least_bytes: of text, or all there is. Returns (documents compared, rows of those that
    differ).
    """
    enough = int(np.searchsorted(texts.offsets, at_least_bytes))
    first = np.arange(min(enough, len(texts.rows)))
    reference = tokenizer.open_checker()
    expected = encode_texts(
        replace(texts.select(first), speakers=None), tokenizer, reference, append_eod=append_eod
    )
    ends = np.cumsum(encoded.lengths[first], dtype=np.int64)
    same = np.array_equal(expected.lengths, encoded.lengths[first]) and np.array_equal(
        expected.tokens, encoded.tokens[: len(expected.tokens)]
    )
    if same:
        return len(first), texts.rows[:0]
    expected_ends = np.cumsum(expected.lengths, dtype=np.int64)
    differs = [
        not np.array_equal(
            encoded.tokens[ends[i] - encoded.lengths[i] : ends[i]],
            expected.tokens[expected_ends[i] - expected.lengths[i] : expected_ends[i]],
        )
        for i in first
    ]
    return len(first), texts.rows[first[differs]]


@dataclass(frozen=True)
class _Framed:
    """Documents with BOS and EOD: tokens in the index's dtype, lengths int32, roles or None."""

    tokens: npt.NDArray
    lengths: Int32Array
    roles: ByteArray | None


def _encode_plain(
    texts: Texts, tokenizer: Tokenizer, encoder: Encoder, append_eod: bool
) -> _Framed:
    """All but chats."""
    ids, lengths = encoder.encode_flat(texts.text, texts.offsets)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    eod_id = tokenizer.eod_id if append_eod else None
    tokens, framed_lengths = frame_documents(
        ids, lengths, bos_id, eod_id, token_dtype(tokenizer.size)
    )
    if texts.speakers is None:
        return _Framed(tokens, framed_lengths, None)
    roles = _frame(_roles(texts, tokenizer, ids, lengths), lengths, bos_id, eod_id)
    is_plain = (texts.speakers.roles[texts.speakers.firsts[:-1]] == ROLES["other"]) & (
        texts.speakers.ends[texts.speakers.firsts[:-1]] == np.diff(texts.offsets)
    )
    if is_plain.any():  # BOS and EOD too: a block with nothing but plain texts has no roles at all
        roles[np.repeat(is_plain, framed_lengths)] = ROLES["other"]
    return _Framed(tokens, framed_lengths, roles)


def _encode_chats(
    texts: Texts, tokenizer: Tokenizer, encoder: Encoder, append_eod: bool
) -> _Framed:
    """The template wrote BOS and maybe EOD; none is added to them."""
    template = tokenizer.chat_template
    assert template is not None, "chats were rendered by a template"
    speller = template.tokenizer
    if speller is not tokenizer:
        encoder = speller.open_encoder("reference" if encoder.is_reference else "auto")
    ids, lengths = encoder.encode_flat(texts.text, texts.offsets)
    roles = None if texts.speakers is None else _roles(texts, speller, ids, lengths)
    eod_id = tokenizer.eod_id if append_eod else None
    if eod_id is not None:
        last = np.cumsum(lengths, dtype=np.int64) - 1
        ended = (lengths > 0) & (ids[np.maximum(last, 0)] == eod_id) if len(ids) else lengths > 0
        ids = np.delete(ids, last[ended])
        roles = None if roles is None else np.delete(roles, last[ended])
        lengths = lengths - ended.astype(np.int32)
    tokens, framed_lengths = frame_documents(
        ids, lengths, None, eod_id, token_dtype(tokenizer.size)
    )
    return _Framed(
        tokens, framed_lengths, None if roles is None else _frame(roles, lengths, None, eod_id)
    )


def _roles(texts: Texts, tokenizer: Tokenizer, ids: Int32Array, lengths: Int32Array) -> ByteArray:
    assert texts.speakers is not None, texts
    ends = tokenizer.token_ends(texts.text, texts.offsets, ids, lengths)
    speakers = texts.speakers
    return token_roles(ends, lengths, speakers.firsts, speakers.ends, speakers.roles)


def _frame(
    roles: ByteArray, lengths: Int32Array, bos_id: int | None, eod_id: int | None
) -> ByteArray:
    prompt = ROLES["prompt"]
    has_bos, has_eod = bos_id is not None, eod_id is not None
    return frame_roles(roles, lengths, has_bos, has_eod, opening=prompt, lonely=prompt)


def _interleave(groups: Sequence[_Framed], places: Sequence[Int64Array]) -> _Framed:
    """One after another again; places: numbers of each group's documents, rising."""
    num_documents = sum(map(len, places))
    lengths = np.empty(num_documents, np.int32)
    for group, place in zip(groups, places, strict=True):
        lengths[place] = group.lengths

    def joined(flat: list[npt.NDArray]) -> npt.NDArray:
        parts = []
        for values, group, place in zip(flat, groups, places, strict=True):
            ends = np.cumsum(group.lengths, dtype=np.int64) * values.itemsize
            choice = np.full(num_documents, -1, np.int64)
            choice[place] = np.arange(len(place))
            parts.append(Part(values.view(np.uint8), np.append(0, ends), choice))
        return join_texts(parts, num_documents)[0].view(flat[0].dtype)

    roles = [group.roles for group in groups if group.roles is not None]
    assert len(roles) in (0, len(groups)), "roles of all groups or of none"
    return _Framed(
        joined([group.tokens for group in groups]), lengths, joined(list(roles)) if roles else None
    )
