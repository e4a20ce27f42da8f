"""From the columns of a block to texts, and from texts to tokens and roles.

A block is whole lines of JSON or some rows of parquet. `scan_block` reads it once for all recipes,
`make_texts` applies one recipe, `encode_texts` tokenizes. Bad rows are entries with a reason and no
exceptions, so that one bad line costs one line.
"""

import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.records import PROBLEM_TEMPLATE, record_from_row
from megatron_math.dataset.documents import ROLES
from megatron_math.index.blocks import Block
from megatron_math.index.parquet_rows import scan_batch
from megatron_math.native.index_writer import frame_documents, frame_roles, token_dtype
from megatron_math.native.json_lines import BadLine, Column, Kind, Scanned, scan_lines
from megatron_math.native.texts import (
    ByteArray,
    Int64Array,
    Part,
    choose_texts,
    join_texts,
    token_roles,
)
from megatron_math.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow

RECORD_KEYS = ("text", "problem", "solution", "answer", "input", "output", "meta", "messages")
NOTHING = (Kind.ABSENT, Kind.NULL)
NOT_STRINGS = (Kind.BOOL, Kind.NUMBER, Kind.ARRAY, Kind.OBJECT)
# A record of a chat's role becomes one of ROLES; any other name is somebody's prompt.
CHAT_ROLES = {"assistant": "solution", "tool": "tool_output", **{name: name for name in ROLES}}


class Encoder(Protocol):
    """What `encode_texts` needs of an engine: one object a thread."""

    def encode_flat(
        self, text: ByteArray, offsets: Int64Array
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...


class ChatTemplate(Protocol):
    """Renders messages; a segment is (byte where it ends in the text, name of who speaks)."""

    def render(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, str]]]: ...


@dataclass(frozen=True)
class Recipe:
    """How a row becomes text.

    key: the string under it is the text (with `chat`: it holds the messages). Without key and
    `chat` the row is a record: `input` and `output` or `problem` and `solution`, rendered in
    `template`, or `text`, or `messages`, rendered by the tokenizer's chat template. chat: only
    `messages` (or `key`) counts.
    """

    key: str | None = None
    template: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        assert self.template is None or (self.key is None and not self.chat), self

    @property
    def keys(self) -> tuple[str, ...]:
        """The members of a row that it looks at."""
        if self.key is not None:
            return (self.key,)
        return ("messages",) if self.chat else RECORD_KEYS

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

    @cached_property
    def pieces(self) -> list[tuple[str, str | None, int]]:
        """Of the template, in order: (words before, field or None, role of the words).

        Words are prompt, except behind the last solution where no problem follows: whoever learns
        to solve has to end like that.
        """
        parsed = list(string.Formatter().parse(self.template or PROBLEM_TEMPLATE))
        last = max(i for i, (_, field, _, _) in enumerate(parsed) if field is not None)
        ends_solved = parsed[last][1] == "solution"
        return [
            (words, field, ROLES["solution" if ends_solved and i > last else "prompt"])
            for i, (words, field, _, _) in enumerate(parsed)
        ]


@dataclass(frozen=True)
class Texts:
    """The documents of a block under one recipe, in order. None is empty.

    rows: int64[n], line numbers inside the block, from 0; text uint8, offsets int64[n + 1]: UTF-8.
    role_ends, role_ids, role_firsts: None where all texts are plain (role `other`), else text i has
    the segments role_firsts[i] to role_firsts[i + 1]; segment s ends at byte role_ends[s] (int64)
    of its text and has role role_ids[s] (uint8, a number of ROLES). id_text, id_offsets: record ids
    by document, empty where the row has none. bad: in the order of lines, those that the scanner
    refused among them. num_lines = len(rows) + num_blank + num_empty + len(bad).
    """

    rows: Int64Array
    text: ByteArray
    offsets: Int64Array
    role_ends: Int64Array | None
    role_ids: ByteArray | None
    role_firsts: Int64Array | None
    id_text: ByteArray
    id_offsets: Int64Array
    num_lines: int
    num_blank: int
    num_empty: int
    bad: list[BadLine]

    @property
    def num_bytes(self) -> int:
        return int(self.offsets[-1] - self.offsets[0])

    def strings(self) -> Iterator[str]:
        for begin, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.text[begin:end].tobytes().decode("utf-8")


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents of one block under one recipe, ready to be written.

    tokens: flat, the index's dtype; lengths: int32[n]; both with BOS and EOD. roles: uint8, one a
    token, or None where all of them are `other`. rows, id_text, id_offsets: as in Texts.
    text_bytes: of UTF-8.
    """

    tokens: npt.NDArray
    lengths: npt.NDArray[np.int32]
    roles: ByteArray | None
    rows: Int64Array
    id_text: ByteArray
    id_offsets: Int64Array
    text_bytes: int


def scan_block(
    block: "bytes | bytearray | memoryview | ByteArray | pyarrow.RecordBatch",
    recipes: Sequence[Recipe],
) -> Scanned:
    """Everything that these recipes need of a block of lines, or of rows of parquet."""
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe.keys))
    if isinstance(block, bytes | bytearray | memoryview | np.ndarray):
        return scan_lines(block, keys)
    return scan_batch(block, keys)


def make_texts(
    scanned: Scanned, recipe: Recipe, chat_template: ChatTemplate | None = None
) -> Texts:
    """The texts of a block under one of the recipes it was scanned for.

    Reasons of bad rows, beside the scanner's: "NUL character" and "half a surrogate pair" in a text
    that is used, "no key 'x'", "key 'x' is no string", "no text: ...", "plain text where a template
    is set", "chat: ...". Raises UserError for a chat where there is no chat template.
    """
    verdict = _Verdict(scanned)
    if recipe.chat:
        parts, is_chat = [], _chat_rows(scanned, recipe, verdict)
    elif recipe.key is not None:
        parts, is_chat = _key_parts(scanned, recipe.key, verdict), verdict.none
    else:
        parts, is_chat = _record_parts(scanned, recipe, verdict)
    chats: dict[int, list[tuple[int, int]]] = {}
    if is_chat.any():
        chat_part, chats = _render_chats(
            scanned.columns[recipe.key or "messages"], is_chat, chat_template, verdict
        )
        parts.append((chat_part, ROLES["prompt"]))
    good = verdict.good_rows()
    chosen = [Part(part.text, part.offsets, part.choice[good]) for part, _ in parts]
    if len(chosen) == 1:
        text, offsets = choose_texts(*chosen[0])
        ends = np.diff(offsets)[:, None]
    else:
        text, offsets, ends = join_texts(chosen, len(good))
    keep = np.flatnonzero(np.diff(offsets))
    num_empty = len(good) - len(keep)
    if num_empty:
        good, ends = good[keep], ends[keep]
        offsets = np.append(offsets[keep], offsets[-1:])  # the empty ones have no bytes
    part_roles = [role for _, role in parts]
    has_roles = any(role != ROLES["other"] for role in part_roles)
    role_ends, role_ids, role_firsts = (
        _segments(good, ends, part_roles, chats) if has_roles else (None, None, None)
    )
    id_text, id_offsets = choose_texts(scanned.ids.text, scanned.ids.offsets, good)
    return Texts(
        rows=scanned.rows[good],
        text=text,
        offsets=offsets,
        role_ends=role_ends,
        role_ids=role_ids,
        role_firsts=role_firsts,
        id_text=id_text,
        id_offsets=id_offsets,
        num_lines=scanned.num_lines,
        num_blank=scanned.num_blank,
        num_empty=num_empty,
        bad=verdict.bad_lines(),
    )


def encode_texts(
    texts: Texts, tokenizer: Tokenizer, encoder: Encoder, *, append_eod: bool
) -> EncodedDocuments:
    """Tokenize; BOS and EOD are put in where the tokenizer and `append_eod` say so.

    A token has the role of its last byte, BOS is prompt, EOD has the role of the token before it;
    in a plain text all are `other`.
    """
    ids, lengths = encoder.encode_flat(texts.text, texts.offsets)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    eod_id = tokenizer.eod_id if append_eod else None
    tokens, framed_lengths = frame_documents(
        ids, lengths, bos_id, eod_id, token_dtype(tokenizer.size)
    )
    return EncodedDocuments(
        tokens=tokens,
        lengths=framed_lengths,
        roles=_framed_roles(texts, tokenizer, ids, lengths, append_eod),
        rows=texts.rows,
        id_text=texts.id_text,
        id_offsets=texts.id_offsets,
        text_bytes=texts.num_bytes,
    )


def _framed_roles(
    texts: Texts,
    tokenizer: Tokenizer,
    ids: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    append_eod: bool,
) -> ByteArray | None:
    if texts.role_ends is None or texts.role_ids is None or texts.role_firsts is None:
        return None
    token_ends = tokenizer.token_ends(texts.text, texts.offsets, ids, lengths)
    roles = token_roles(token_ends, lengths, texts.role_firsts, texts.role_ends, texts.role_ids)
    prompt, other = ROLES["prompt"], ROLES["other"]
    has_bos = tokenizer.adds_bos and tokenizer.bos_id is not None
    roles = frame_roles(roles, lengths, has_bos, append_eod, opening=prompt, lonely=prompt)
    opening = texts.role_firsts[:-1]
    is_plain = (texts.role_ids[opening] == other) & (
        texts.role_ends[opening] == np.diff(texts.offsets)
    )
    if is_plain.any():  # BOS and EOD too: a block with nothing but plain texts has no roles at all
        roles[np.repeat(is_plain, lengths + (int(has_bos) + int(append_eod)))] = other
    return roles


Mask = npt.NDArray[np.bool_]
PartAndRole = tuple[Part, int]


class _Verdict:
    """Which rows are refused, and why: the first reason counts."""

    def __init__(self, scanned: Scanned) -> None:
        self._scanned = scanned
        self._codes = np.zeros(len(scanned.rows), np.int64)
        self._reasons = [""]

    @property
    def none(self) -> Mask:
        return np.zeros(len(self._codes), bool)

    @property
    def good(self) -> Mask:
        return self._codes == 0

    def good_rows(self) -> Int64Array:
        return np.flatnonzero(self._codes == 0)

    def refuse(self, rows: Mask | int, reason: str) -> None:
        """rows: all rows' mask, or the number of one."""
        mask = self.none
        mask[rows] = True
        mask &= self.good
        if mask.any():
            self._codes[mask] = len(self._reasons)
            self._reasons.append(reason)

    def refuse_unwritable(self, rows: Mask, column: Column) -> None:
        """Of `rows`, whose string in `column` would be used, those that no text can hold."""
        self.refuse(rows & (column.kinds == Kind.HALF_PAIR), "half a surrogate pair")
        self.refuse(rows & (column.kinds == Kind.NUL_STRING), "NUL character")

    def bad_lines(self) -> list[BadLine]:
        """The refused rows and those that the scanner refused, by line."""
        refused = np.flatnonzero(self._codes)
        lines = self._scanned.rows[refused].tolist()
        spans = self._scanned.spans[refused].tolist()
        found = [
            BadLine(line, begin, num_bytes, self._reasons[code])
            for line, (begin, num_bytes), code in zip(
                lines, spans, self._codes[refused].tolist(), strict=True
            )
        ]
        return sorted([*self._scanned.bad, *found])


def _key_parts(scanned: Scanned, key: str, verdict: _Verdict) -> list[PartAndRole]:
    column = scanned.columns[key]
    verdict.refuse(column.kinds == Kind.ABSENT, f"no key '{key}'")
    verdict.refuse_unwritable(~verdict.none, column)
    verdict.refuse(column.kinds != Kind.STRING, f"key '{key}' is no string")
    return [(_strings(column, ~verdict.none), ROLES["other"])]


def _record_parts(
    scanned: Scanned, recipe: Recipe, verdict: _Verdict
) -> tuple[list[PartAndRole], Mask]:
    """The rule of base/records.py, for all rows at once: (parts, rows that are chats)."""
    column = scanned.columns
    kinds = {key: column[key].kinds for key in RECORD_KEYS}
    has_two = ~np.isin(kinds["input"], NOTHING) & ~np.isin(kinds["output"], NOTHING)
    record = {
        "text": np.where(has_two, Kind.ABSENT, kinds["text"]),
        "problem": np.where(has_two, kinds["input"], kinds["problem"]),
        "solution": np.where(has_two, kinds["output"], kinds["solution"]),
        "answer": kinds["answer"],
    }
    for name, found in record.items():
        verdict.refuse(np.isin(found, NOT_STRINGS), f"key '{name}' is no string")
    has = {name: ~np.isin(found, NOTHING) for name, found in record.items()}
    is_text = has["text"]
    is_problem = ~is_text & has["problem"] & has["solution"]
    is_chat = ~is_text & ~is_problem & (kinds["messages"] == Kind.ARRAY)
    verdict.refuse(
        ~(is_text | is_problem | is_chat),
        "no text: neither 'text', nor 'problem' and 'solution', nor 'input' and 'output', "
        "nor 'messages'",
    )
    for row in np.flatnonzero(~np.isin(kinds["meta"], (*NOTHING, Kind.OBJECT))):
        if _is_true(column["meta"], row):
            verdict.refuse(int(row), "key 'meta' is no object")
    if recipe.template is not None:
        verdict.refuse(is_text, "plain text where a template is set")
        verdict.refuse(is_chat, "a chat where a template is set")
    parts: list[PartAndRole] = []
    if is_text.any():
        verdict.refuse_unwritable(is_text, column["text"])
        parts.append((_strings(column["text"], is_text), ROLES["other"]))
    if not is_problem.any():
        return parts, is_chat & verdict.good
    places = [
        (name, rows)
        for names, rows in ((("problem", "solution"), ~has_two), (("input", "output"), has_two))
        for name in names
    ]
    used = {name: is_problem & rows for name, rows in places}
    for name, rows in used.items():
        verdict.refuse_unwritable(rows, column[name])
    other_name = {"problem": "input", "solution": "output"}
    for words, field, role in recipe.pieces:
        if words:
            parts.append((_words(words, is_problem), role))
        if field is not None:
            parts += [
                (
                    _strings(column[name], used[name]),
                    ROLES["prompt" if field == "problem" else field],
                )
                for name in (field, other_name[field])
                if used[name].any()
            ]
    return parts, is_chat & verdict.good


def _is_true(column: Column, row: int) -> bool:
    """Whether Python would take the row's value for true."""
    if column.kinds[row] in (Kind.STRING, Kind.NUL_STRING, Kind.HALF_PAIR):
        return column.kinds[row] == Kind.HALF_PAIR or column.offsets[row] < column.offsets[row + 1]
    return bool(json.loads(column.value(row), parse_int=float))


def _chat_rows(scanned: Scanned, recipe: Recipe, verdict: _Verdict) -> Mask:
    key = recipe.key or "messages"
    kinds = scanned.columns[key].kinds
    verdict.refuse(kinds == Kind.ABSENT, f"no key '{key}'")
    verdict.refuse(kinds != Kind.ARRAY, f"key '{key}' is no list of messages")
    return verdict.good


def _render_chats(
    column: Column, is_chat: Mask, template: ChatTemplate | None, verdict: _Verdict
) -> tuple[Part, dict[int, list[tuple[int, int]]]]:
    """(the rendered texts, by row the byte where each segment ends and its role)."""
    if template is None:
        raise UserError(
            "the records hold chats ('messages'), and this tokenizer has no chat template; give a "
            "tokenizer folder with one (chat_template in its tokenizer_config.json, or "
            "chat_template.jinja)"
        )
    pool: list[bytes] = []
    choice = np.full(len(is_chat), -1, np.int64)
    chats = {}
    for row in np.flatnonzero(is_chat).tolist():
        rendered = _render_chat(column.value(row), template)
        if isinstance(rendered, str):
            verdict.refuse(row, rendered)
            continue
        text, chats[row] = rendered
        choice[row] = len(pool)
        pool.append(text)
    offsets = np.cumsum([0, *map(len, pool)], dtype=np.int64)
    return Part(np.frombuffer(b"".join(pool), np.uint8), offsets, choice), chats


def _render_chat(
    messages: bytes, template: ChatTemplate
) -> tuple[bytes, list[tuple[int, int]]] | str:
    """(UTF-8, segments), or the reason why there is no text."""
    try:
        text, speakers = template.render(json.loads(messages, parse_int=_whole_number))
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair"
    except ValueError as error:  # a UserError: the template refuses these messages
        return f"chat: {error}"
    if b"\0" in encoded:
        return "NUL character"
    return encoded, [
        (end, ROLES[CHAT_ROLES.get(speaker, "prompt")]) for end, speaker in speakers
    ] or [(len(encoded), ROLES["prompt"])]


def _whole_number(literal: str) -> int | float:
    return int(literal) if len(literal) <= 4_000 else float(literal)  # Python's int stops at 4,300


def _segments(
    rows: Int64Array,
    ends: Int64Array,
    role_ids: Sequence[int],
    chats: dict[int, list[tuple[int, int]]],
) -> tuple[Int64Array, ByteArray, Int64Array]:
    """(role_ends, role_ids, role_firsts) of the texts that became of `rows`.

    ends: int64[texts, parts]; role_ids: of the parts; chats have segments of their own.
    """
    count, num_parts = ends.shape
    if not chats:
        firsts = np.arange(count + 1, dtype=np.int64) * num_parts
        return ends.reshape(-1), np.tile(np.array(role_ids, np.uint8), count), firsts
    segments = [
        chats.get(row) or list(zip(row_ends, role_ids, strict=True))
        for row, row_ends in zip(rows.tolist(), ends.tolist(), strict=True)
    ]
    flat = [segment for row_segments in segments for segment in row_segments]
    return (
        np.array([end for end, _ in flat], np.int64),
        np.array([role for _, role in flat], np.uint8),
        np.cumsum([0, *map(len, segments)], dtype=np.int64),
    )


def _strings(column: Column, rows: Mask) -> Part:
    return Part(column.text, column.offsets, np.where(rows, np.arange(len(rows)), -1))


def _words(words: str, rows: Mask) -> Part:
    text = np.frombuffer(words.encode("utf-8"), np.uint8)
    return Part(text, np.array([0, len(text)], np.int64), np.where(rows, 0, -1))


# ---- until the rest of the room reads blocks as above ----


@dataclass(frozen=True)
class EncodedColumn:
    """Documents of one block under one recipe. tokens: flat, the index's dtype; lengths: int32."""

    tokens: npt.NDArray
    lengths: npt.NDArray[np.int32]
    text_bytes: int
    num_empty: int  # documents without text: nothing but EOD (and BOS)


@dataclass(frozen=True)
class EncodedBlock:
    """What comes back from a worker: one EncodedColumn a recipe, and the documents' ids."""

    path: Path
    disk_bytes: int
    record_ids: list[str]
    columns: list[EncodedColumn]


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


def _encode_column(texts: list[str], tokenizer: Tokenizer, append_eod: bool) -> EncodedColumn:
    tokens, lengths = tokenizer.encode_flat(texts)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    eod_id = tokenizer.eod_id if append_eod else None
    tokens, framed_lengths = frame(tokens, lengths, bos_id, eod_id)
    return EncodedColumn(
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
