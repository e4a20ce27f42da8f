"""Blocks to texts to tokens and roles: equal to the record rule row by row, every row accounted."""

import json
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.base.errors import UserError
from megatron_math.base.records import record_from_row
from megatron_math.dataset.documents import ROLES
from megatron_math.index.config import SourceConfig
from megatron_math.index.documents import Recipe, Texts, make_texts, scan_block

TEMPLATE = "{{Q}} {problem}\n{solution} END"


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def texts_of(rows: list[Any] | bytes, recipe: Recipe, tokenizer: Any = None) -> Texts:
    block = rows if isinstance(rows, bytes) else lines(rows)
    texts = make_texts(scan_block(block, [recipe]), recipe, tokenizer)
    accounted = len(texts.rows) + texts.num_blank + texts.num_empty + len(texts.bad)
    assert texts.num_lines == accounted
    assert len(texts.offsets) == len(texts.id_offsets) == len(texts.rows) + 1
    assert texts.offsets[0] == 0
    assert texts.num_bytes == len(texts.text)
    assert all(texts.strings())
    return texts


def ids_of(texts: Texts) -> list[str]:
    bounds = texts.id_offsets.tolist()
    return [
        texts.id_text[b:e].tobytes().decode() for b, e in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def spoken(texts: Texts, document: int) -> list[tuple[str, str]]:
    """(who, what) of a document, one entry as long as the same one speaks."""
    names = {number: name for name, number in ROLES.items()}
    speakers = texts.speakers
    assert speakers is not None
    content = list(texts.strings())[document].encode()
    found: list[tuple[str, str]] = []
    begin = 0
    for s in range(speakers.firsts[document], speakers.firsts[document + 1]):
        end = int(speakers.ends[s])
        who, what = names[int(speakers.roles[s])], content[begin:end].decode()
        if found and what and found[-1][0] == who:
            found[-1] = (who, found[-1][1] + what)
        elif what:
            found.append((who, what))
        begin = end
    assert begin == len(content)
    return found


strings = st.text(st.sampled_from("ab é😀{}\n\0"), max_size=4) | st.just("\ud800")
values = strings | st.none() | st.sampled_from([3, 1.5, True, ["x"], {"k": 1}, {}, 0, ""])
rows = st.dictionaries(
    st.sampled_from(["text", "problem", "solution", "answer", "input", "output", "meta", "id"]),
    strings | values,
    max_size=7,
) | st.sampled_from([[], 3, None])


def expected_text(row: Any, template: str | None) -> str | None:
    """By the record rule itself; None where the row is bad."""
    try:
        record = record_from_row(row, default_id="", default_source="", where="here")
        text = record.render(template)
        if template is not None and record.text is not None:
            return None
        text.encode("utf-8")
        str(row.get("id", "")).encode("utf-8")
    except (UserError, UnicodeEncodeError):
        return None
    return None if "\0" in text else text


@settings(max_examples=400, deadline=None)
@given(block=st.lists(rows, max_size=6), template=st.sampled_from([None, TEMPLATE]))
def test_records_become_the_texts_of_the_record_rule(
    block: list[Any], template: str | None
) -> None:
    texts = texts_of(block, Recipe(template=template))
    expected = [expected_text(row, template) for row in block]
    assert list(texts.strings()) == [text for text in expected if text]
    assert texts.rows.tolist() == [number for number, text in enumerate(expected) if text]
    assert texts.num_empty == expected.count("")
    assert [bad.line for bad in texts.bad] == [n for n, text in enumerate(expected) if text is None]
    names = [block[row].get("id") for row in texts.rows]
    named = [name if isinstance(name, str) else json.dumps(name) for name in names]
    kept = [isinstance(name, str | int | float) and name is not True for name in names]
    assert ids_of(texts) == [name if k else "" for name, k in zip(named, kept, strict=True)]


@settings(max_examples=200, deadline=None)
@given(
    block=st.lists(
        st.fixed_dictionaries(
            {key: st.none() | st.text(st.sampled_from("ab é\n\0"), max_size=4)
             for key in ("text", "problem", "solution", "input", "output")},
        ) | st.fixed_dictionaries({"text": strings.filter(lambda s: s != "\ud800")}),
        min_size=1,
        max_size=6,
    ),
    recipe=st.sampled_from([Recipe(), Recipe(template=TEMPLATE), Recipe(key="text")]),
)  # fmt: skip
def test_parquet_rows_are_read_like_lines(block: list[dict], recipe: Recipe) -> None:
    batch = pyarrow.RecordBatch.from_pylist(block)
    from_rows = make_texts(scan_block(batch, [recipe]), recipe)
    from_lines = texts_of(batch.to_pylist(), recipe)
    assert list(from_rows.strings()) == list(from_lines.strings())
    assert from_rows.rows.tolist() == from_lines.rows.tolist()
    assert from_rows.num_empty == from_lines.num_empty
    assert [(b.line, b.reason) for b in from_rows.bad] == [
        (b.line, b.reason) for b in from_lines.bad
    ]
    assert (from_rows.speakers is None) == (from_lines.speakers is None)
    for part in ("firsts", "ends", "roles") if from_rows.speakers else ():
        assert np.array_equal(getattr(from_rows.speakers, part), getattr(from_lines.speakers, part))


def test_parquet_types() -> None:
    table = pyarrow.table(
        {
            "id": pyarrow.array([5, None, 7], pyarrow.int32()),
            "plain": ["a", None, "é"],
            "large": pyarrow.array(["x", "", "z"], pyarrow.large_string()),
            "names": pyarrow.array(["u", "v", "u"]).dictionary_encode(),
            "number": [1.5, 2.5, None],
            "list": [["a"], [], None],
            "torn": pyarrow.array([b"ok", b"\xff", b"ok"]).view(pyarrow.string()),
            "none": pyarrow.nulls(3),
        }
    )
    batch = table.to_batches()[0]

    def read(key: str, rows: pyarrow.RecordBatch = batch) -> tuple[list[str], list[str]]:
        texts = make_texts(scan_block(rows, [Recipe(key=key)]), Recipe(key=key))
        return list(texts.strings()), [f"{bad.line} {bad.reason}" for bad in texts.bad]

    assert read("plain") == (["a", "é"], ["1 key 'plain' is no string"])
    assert read("large") == (["x", "z"], [])
    assert read("names") == (["u", "v", "u"], [])
    assert read("names", batch.slice(1)) == (["v", "u"], [])
    assert read("plain", batch.slice(2)) == (["é"], [])
    assert read("plain", batch.slice(1, 1)) == ([], ["0 key 'plain' is no string"])
    assert read("torn") == (["ok", "ok"], ["1 invalid UTF-8"])
    assert read("nothing")[1] == [f"{row} no key 'nothing'" for row in range(3)]
    for key in ("number", "list", "none"):
        assert read(key)[1] == [f"{row} key '{key}' is no string" for row in range(3)]
    recipe = Recipe(key="names")
    assert ids_of(make_texts(scan_block(batch, [recipe]), recipe)) == ["5", "", "7"]


@pytest.mark.parametrize(
    ("recipe", "row", "reason"),
    [
        (Recipe(key="body"), {"text": "t"}, "no key 'body'"),
        (Recipe(key="body"), {"body": None}, "key 'body' is no string"),
        (Recipe(key="body"), {"body": ["t"]}, "key 'body' is no string"),
        (Recipe(key="body"), {"body": "a\0"}, "NUL character"),
        (Recipe(key="body"), {"body": "\ud800"}, "half a surrogate pair"),
        (Recipe(), {"text": 3}, "key 'text' is no string"),
        (Recipe(), {"input": ["p"], "output": "s"}, "key 'problem' is no string"),
        (Recipe(), {"text": "t", "answer": 3}, "key 'answer' is no string"),
        (Recipe(), {"text": "t", "meta": [1]}, "key 'meta' is no object"),
        (Recipe(), {"problem": "p"}, "no text: neither 'text'"),
        (Recipe(), {"problem": "p", "solution": "s\0"}, "NUL character"),
        (Recipe(), [], "not an object"),
        (Recipe(template=TEMPLATE), {"text": "t"}, "plain text where a template is set"),
        (Recipe(template=TEMPLATE), {"messages": []}, "a chat where a template is set"),
        (Recipe(chat=True), {"text": "t"}, "no key 'messages'"),
        (Recipe(chat=True), {"messages": "t"}, "key 'messages' is no list of messages"),
    ],
)
def test_bad_rows_have_a_reason_and_their_place(recipe: Recipe, row: Any, reason: str) -> None:
    good = {"body": "b"} if recipe.key else {"problem": "p", "solution": "s"}
    texts = texts_of(lines([good]) * (not recipe.chat) + b"\n" + lines([row]), recipe)
    (bad,) = texts.bad
    assert bad.reason.startswith(reason)
    block = lines([good]) * (not recipe.chat) + b"\n" + lines([row])
    assert block[bad.byte : bad.byte + bad.num_bytes] == lines([row])[:-1]
    assert bad.line == block[: bad.byte].count(b"\n")
    assert len(texts.rows) == (not recipe.chat)  # control


def test_bad_rows_of_all_kinds_come_in_order() -> None:
    block = b'{"t": 1}\nnot JSON\n{"t": "ok"}\n\n{"t": ""}\n{}\n\xff\n'
    texts = texts_of(block, Recipe(key="t"))
    assert [(bad.line, bad.reason.partition(":")[0]) for bad in texts.bad] == [
        (0, "key 't' is no string"), (1, "not JSON"), (5, "no key 't'"), (6, "invalid UTF-8"),
    ]  # fmt: skip
    assert (texts.num_lines, texts.num_blank, texts.num_empty) == (7, 1, 1)
    assert texts.rows.tolist() == [2]


def test_several_recipes_share_one_scan() -> None:
    block = lines([{"a": "1", "b": "2", "id": "x"}, {"a": "", "b": "3"}, {"b": 4, "a": "5"}])
    recipes = [Recipe(key="a"), Recipe(key="b"), Recipe(key="id")]
    scanned = scan_block(block, recipes)
    found = [make_texts(scanned, recipe) for recipe in recipes]
    assert [list(texts.strings()) for texts in found] == [["1", "5"], ["2", "3"], ["x"]]
    assert [texts.rows.tolist() for texts in found] == [[0, 2], [0, 1], [0]]
    assert [(texts.num_empty, len(texts.bad)) for texts in found] == [(1, 0), (0, 1), (0, 2)]
    assert [ids_of(texts) for texts in found] == [["x", ""], ["x", ""], ["x"]]


def test_plain_texts_are_not_copied_and_have_no_roles() -> None:
    block = lines([{"text": "one"}, {"text": ""}, {"other": 1}, {"text": "two"}])
    for recipe in (Recipe(key="text"), Recipe()):
        scanned = scan_block(block, [recipe])
        texts = make_texts(scanned, recipe)
        assert np.shares_memory(texts.text, scanned.columns["text"].text)
        assert list(texts.strings()) == ["one", "two"]
        assert texts.speakers is None
        assert texts.is_chat is None


def test_roles_of_templates_and_plain_texts() -> None:
    rows = [
        {"problem": "p?", "solution": "s."},
        {"text": "plain"},
        {"input": "é", "output": ""},
    ]
    texts = texts_of(rows, Recipe())
    assert spoken(texts, 0) == [("prompt", "Question: p?\nSolution: "), ("solution", "s.")]
    assert spoken(texts, 1) == [("other", "plain")]
    assert spoken(texts, 2) == [("prompt", "Question: é\nSolution: ")]
    ended = texts_of(rows[:1], Recipe(template=TEMPLATE))
    assert spoken(ended, 0) == [("prompt", "{Q} p?\n"), ("solution", "s. END")]
    backwards = Recipe(template="{solution} <- {problem} for {problem}!")
    assert spoken(texts_of(rows[:1], backwards), 0) == [
        ("solution", "s."),
        ("prompt", " <- p? for p?!"),
    ]


class Chat:
    """A tokenizer's chat template: `<role>content` for each message; refuses kings."""

    chat_template: "Chat"

    def render(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, str]]]:
        text, ends = "", []
        for message in messages:
            if message["role"] == "king":
                raise UserError("no kings here")
            who = {"user": "prompt", "assistant": "solution", "tool": "tool_output"}
            for part, role in ((f"<{message['role']}>", "user"), (message["content"], None)):
                text += part
                ends.append((len(text.encode("utf-8", "replace")), who[role or message["role"]]))
        return text, ends


def test_chats() -> None:
    rows = [
        {"text": "plain"},
        {"messages": [{"role": "user", "content": "é?"}, {"role": "assistant", "content": "42"}]},
        {"messages": [{"role": "king", "content": "?"}]},
        {"problem": "p", "solution": "s", "messages": []},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": "a\0"}]},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "5", "n": 7}]},
    ]
    block = lines(rows).replace(b'"n": 7', b'"n": 7' + b"0" * 9000)  # more than Python's int reads
    tokenizer = Chat()
    tokenizer.chat_template = tokenizer
    texts = texts_of(block, Recipe(), tokenizer)
    assert texts.rows.tolist() == [0, 1, 3, 7]
    assert [(bad.line, bad.reason) for bad in texts.bad] == [
        (2, "chat: no kings here"), (4, "half a surrogate pair"), (5, "NUL character"),
    ]  # fmt: skip
    assert texts.num_empty == 1
    assert spoken(texts, 0) == [("other", "plain")]
    assert spoken(texts, 1) == [("prompt", "<user>é?<assistant>"), ("solution", "42")]
    assert spoken(texts, 2)[-1] == ("solution", "s")
    assert spoken(texts, 3)[-1] == ("tool_output", "5")
    only_chats = texts_of(block, Recipe(chat=True), tokenizer)
    assert only_chats.rows.tolist() == [1, 7]
    assert only_chats.num_empty == 2  # a record's own text does not count then
    other_key = lines([{"talk": rows[1]["messages"]}])
    assert list(texts_of(other_key, Recipe(key="talk", chat=True), tokenizer).strings()) == [
        "<user>é?<assistant>42"
    ]
    with pytest.raises(UserError, match="there is no chat template"):
        texts_of(block, Recipe())
    assert len(texts_of(lines(rows[:1]), Recipe()).rows) == 1  # control


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"template": "{problem}{solution}", "text_key": "x"}, "no effect beside 'text_key'"),
        ({"template": "{problem}{solution}", "chat": True}, "no effect beside 'chat'"),
        ({"template": "{problem} {solution!r}"}, "as they are"),
        ({"template": "{problem} {solution:>9}"}, "as they are"),
        ({"template": "{problem} only"}, "found the fields \\['problem'\\]"),
        ({"template": "{problem} {solution} }"}, "braces"),
    ],
)
def test_sources_that_cannot_be_meant(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(path="x", **section)
    SourceConfig(path="x", text_key="talk", chat=True)  # control
    SourceConfig(path="x", template="{{}} {problem} {solution}")
