"""Recipes: how a row of JSON or parquet becomes text, for all rows of a block at once.

The rule for records is that of base/records.py, over columns; `messages` are chats.
"""

import json
import string
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.records import PROBLEM_TEMPLATE, record_from_row
from megatron_math.dataset.documents import ROLES
from megatron_math.native.json_lines import BadLine, Column, Kind, Scanned
from megatron_math.native.texts import Int64Array, Part
from megatron_math.tokenizer import Tokenizer

if TYPE_CHECKING:
    from megatron_math.tokenizer.chat_template import ChatTemplate

RECORD_KEYS = ("text", "problem", "solution", "answer", "input", "output", "meta", "messages")

Mask = npt.NDArray[np.bool_]
Segments = list[tuple[int, int]]  # (byte where it ends in its text, number of ROLES)


def _table(*kinds: Kind) -> Mask:
    return np.isin(np.arange(len(Kind)), kinds)


# By kind; looked up, since eleven np.isin a block cost 0.4 ms with the interpreter held.
IS_NOTHING = _table(Kind.ABSENT, Kind.NULL)
IS_NO_STRING = _table(Kind.BOOL, Kind.NUMBER, Kind.ARRAY, Kind.OBJECT)
IS_NO_META = ~_table(Kind.ABSENT, Kind.NULL, Kind.OBJECT)


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
    def pieces(self) -> list[tuple[str, str | None, str]]:
        """Of the template, in order: (words, the field behind them or None, role of the words).

        Words are prompt, except behind the last solution where no problem follows: whoever learns
        to solve has to end like that.
        """
        parsed = list(string.Formatter().parse(self.template or PROBLEM_TEMPLATE))
        last = max(i for i, (_, field, _, _) in enumerate(parsed) if field is not None)
        ends_solved = parsed[last][1] == "solution"
        return [
            (words, field, "solution" if ends_solved and i > last else "prompt")
            for i, (words, field, _, _) in enumerate(parsed)
        ]


@dataclass
class Parts:
    """What the rows' texts are made of, in order; a refused row's parts do not count.

    parts, roles: of each part a row takes one string or nothing; its role is a number of ROLES.
    chats: by row, the segments of those that are chats, whose whole text is one part.
    """

    parts: list[Part]
    roles: list[int]
    chats: dict[int, Segments]

    def add(self, part: Part, role: str) -> None:
        self.parts.append(part)
        self.roles.append(ROLES[role])


class Verdict:
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


def parts_of(
    scanned: Scanned, recipe: Recipe, tokenizer: Tokenizer | None, verdict: Verdict
) -> Parts:
    """The parts of all rows' texts; rows that have none are refused in `verdict`.

    Raises UserError for a chat where there is no chat template, or no tokenizer to have one.
    """
    if recipe.chat:
        found, is_chat = Parts([], [], {}), _chat_rows(scanned, recipe, verdict)
    elif recipe.key is not None:
        found, is_chat = _key_parts(scanned, recipe.key, verdict), verdict.none
    else:
        found, is_chat = _record_parts(scanned, recipe, verdict)
    if is_chat.any():
        column = scanned.columns[recipe.key or "messages"]
        template = None if tokenizer is None else tokenizer.chat_template
        part, found.chats = _render_chats(column, is_chat, template, verdict)
        found.add(part, "prompt")
    return found


def _key_parts(scanned: Scanned, key: str, verdict: Verdict) -> Parts:
    column = scanned.columns[key]
    if not column.present.all():
        verdict.refuse(column.kinds == Kind.ABSENT, f"no key '{key}'")
        verdict.refuse_unwritable(~verdict.none, column)
        verdict.refuse(~column.present, f"key '{key}' is no string")
    return Parts([_strings(column, ~verdict.none)], [ROLES["other"]], {})


def _record_parts(scanned: Scanned, recipe: Recipe, verdict: Verdict) -> tuple[Parts, Mask]:
    """The rule of base/records.py, for all rows at once: (parts, rows that are chats)."""
    column = scanned.columns
    kinds = {key: column[key].kinds for key in RECORD_KEYS}
    has_two = ~(IS_NOTHING[kinds["input"]] | IS_NOTHING[kinds["output"]])
    record = {
        "text": np.where(has_two, Kind.ABSENT, kinds["text"]),
        "problem": np.where(has_two, kinds["input"], kinds["problem"]),
        "solution": np.where(has_two, kinds["output"], kinds["solution"]),
        "answer": kinds["answer"],
    }
    for name, kind in record.items():
        verdict.refuse(IS_NO_STRING[kind], f"key '{name}' is no string")
    has = {name: ~IS_NOTHING[kind] for name, kind in record.items()}
    is_text = has["text"]
    is_problem = ~is_text & has["problem"] & has["solution"]
    is_chat = ~is_text & ~is_problem & (kinds["messages"] == Kind.ARRAY)
    verdict.refuse(
        ~(is_text | is_problem | is_chat),
        "no text: neither 'text', nor 'problem' and 'solution', nor 'input' and 'output', "
        "nor 'messages'",
    )
    for row in np.flatnonzero(IS_NO_META[kinds["meta"]]):
        if _is_true(column["meta"], row):
            verdict.refuse(int(row), "key 'meta' is no object")
    if recipe.template is not None:
        verdict.refuse(is_text, "plain text where a template is set")
        verdict.refuse(is_chat, "a chat where a template is set")
    found = Parts([], [], {})
    if is_text.any():
        verdict.refuse_unwritable(is_text, column["text"])
        found.add(_strings(column["text"], is_text), "other")
    if not is_problem.any():
        return found, is_chat & verdict.good
    places = [
        (name, rows)
        for names, rows in ((("problem", "solution"), ~has_two), (("input", "output"), has_two))
        for name in names
    ]
    used = {name: is_problem & rows for name, rows in places}
    for name, rows in used.items():
        verdict.refuse_unwritable(rows, column[name])
    other_name = {"problem": "input", "solution": "output"}
    speaker_of = dict.fromkeys(("problem", "input"), "prompt")
    speaker_of |= dict.fromkeys(("solution", "output"), "solution")
    for words, field, speaker in recipe.pieces:
        if words:
            found.add(_words(words, is_problem), speaker)
        names = () if field is None else (field, other_name[field])
        for name in names:
            if used[name].any():
                found.add(_strings(column[name], used[name]), speaker_of[name])
    return found, is_chat & verdict.good


def _is_true(column: Column, row: int) -> bool:
    """Whether Python would take the row's value for true."""
    if column.kinds[row] in (Kind.STRING, Kind.NUL_STRING, Kind.HALF_PAIR):
        return column.kinds[row] == Kind.HALF_PAIR or column.offsets[row] < column.offsets[row + 1]
    return bool(json.loads(column.value(row), parse_int=float))


def _chat_rows(scanned: Scanned, recipe: Recipe, verdict: Verdict) -> Mask:
    key = recipe.key or "messages"
    kinds = scanned.columns[key].kinds
    verdict.refuse(kinds == Kind.ABSENT, f"no key '{key}'")
    verdict.refuse(kinds != Kind.ARRAY, f"key '{key}' is no list of messages")
    return verdict.good


def _render_chats(
    column: Column, is_chat: Mask, template: "ChatTemplate | None", verdict: Verdict
) -> tuple[Part, dict[int, Segments]]:
    """(the rendered texts, by row the byte where each segment ends and its role)."""
    if template is None:
        raise UserError(
            "the records hold chats ('messages'), and there is no chat template for them; give a "
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


def _render_chat(messages: bytes, template: "ChatTemplate") -> tuple[bytes, Segments] | str:
    """(UTF-8, segments), or the reason why there is no text."""
    try:
        text, stretches = template.render(json.loads(messages, parse_int=_whole_number))
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair"
    except ValueError as error:  # the template refuses these messages
        return f"chat: {error}"
    if b"\0" in encoded:
        return "NUL character"
    return encoded, [(end, ROLES[speaker]) for end, speaker in stretches]


def _whole_number(literal: str) -> int | float:
    return int(literal) if len(literal) <= 4_000 else float(literal)  # Python's int stops at 4,300


def _strings(column: Column, rows: Mask) -> Part:
    return Part(column.text, column.offsets, np.where(rows, np.arange(len(rows)), -1))


def _words(words: str, rows: Mask) -> Part:
    text = np.frombuffer(words.encode("utf-8"), np.uint8)
    return Part(text, np.array([0, len(text)], np.int64), np.where(rows, 0, -1))
