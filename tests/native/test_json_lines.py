"""The JSON line scanner: the verdict and the text of json.loads, whatever the bytes are."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_math.native import reference_json_lines
from megatron_math.native.json_lines import Column, Kind, Scanned, scan_lines

KEYS = ["text", "problem", "a"]
DATA_FILES = ("gsm8k/test.jsonl", "eval/aqua.jsonl", "jiuzhang3/tool_pretrain_data_sampled.jsonl")


def values_of(column: Column) -> list[tuple[Kind, Any]]:
    """(kind, value) of each row; JSON is parsed, since its spelling is free."""
    values = []
    as_spelled: dict[str, Any] = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str)
    for row, kind in enumerate(map(Kind, column.kinds)):
        text = column.value(row)
        parse = kind in (Kind.BOOL, Kind.ARRAY, Kind.OBJECT) and text
        value = json.loads(text, **as_spelled) if parse else text.decode("utf-8")
        values.append((kind, value))
    return values


def facts(scanned: Scanned) -> dict[str, Any]:
    assert scanned.num_lines == len(scanned.rows) + scanned.num_blank + len(scanned.bad)
    return {
        "lines": (scanned.num_lines, scanned.num_blank),
        "rows": scanned.rows.tolist(),
        "spans": scanned.spans.tolist(),
        "columns": {key: values_of(column) for key, column in scanned.columns.items()},
        "ids": values_of(scanned.ids),
        "bad": [line._replace(reason=line.reason.partition(":")[0]) for line in scanned.bad],
    }


def check(block: bytes, keys: list[str] = KEYS) -> Scanned:
    """Equal to the twin in everything; returns what was scanned."""
    scanned = scan_lines(block, keys)
    assert facts(scanned) == facts(reference_json_lines.scan_lines(block, keys))
    for column in (*scanned.columns.values(), scanned.ids):
        assert column.offsets[-1] == len(column.text)
    return scanned


def reason_of(line: bytes) -> str:
    scanned = check(line)
    assert (scanned.num_lines, scanned.num_blank) == (1, 0)
    return scanned.bad[0].reason if scanned.bad else ""


def text_of(line: str | bytes) -> str | None:
    column = check(line.encode() if isinstance(line, str) else line, ["text"]).columns["text"]
    assert len(column.kinds) == 1
    return column.value(0).decode() if column.present[0] else None


characters = st.characters(codec="utf-8") | st.sampled_from('\0"\\/\b\f\n\r\t\x7f\u2028é€😀')
strings = st.text(characters, max_size=40)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | strings
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["text", "problem", "a", "id", "other", "", "té"]) | strings


@st.composite
def members(draw: st.DrawFn) -> str:
    """An object's JSON with any spacing, duplicates and any way to spell its strings."""

    def space() -> str:
        return draw(st.sampled_from(["", "", "", " ", "\t", "\r", "  \t "]))

    def spell(value: Any) -> str:
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    def name() -> str:
        chosen = draw(names)
        if draw(st.booleans()):
            return (
                '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0xD800 else "x" for c in chosen) + '"'
            )
        return spell(chosen)

    pairs = [
        f"{space()}{name()}{space()}:{space()}{spell(draw(values))}{space()}"
        for _ in range(draw(st.integers(0, 5)))
    ]
    return f"{space()}{{{','.join(pairs) or space()}}}{space()}"


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(members() | values.map(json.dumps) | st.just(""), max_size=6))
def test_generated_json_is_read_as_python_does(lines: list[str]) -> None:
    check("\n".join(lines).encode())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_json_gets_pythons_verdict(data: st.DataObject) -> None:
    block = bytearray("\n".join(data.draw(st.lists(members(), min_size=1, max_size=3))).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(block) - 1))
        kind = data.draw(st.sampled_from(["put", "put", "cut", "insert"]))
        byte = data.draw(st.integers(0, 255) | st.sampled_from(b'"\\{}[],:0123456789-+.eEu\n\0'))
        if kind == "put":
            block[at] = byte
        elif kind == "insert":
            block.insert(at, byte)
        elif len(block) > 1:
            del block[at]
    check(bytes(block))


@settings(max_examples=200, deadline=None)
@given(block=st.binary(max_size=60) | st.text('{}[]",:\\u0 1-.eE\n', max_size=40).map(str.encode))
def test_any_bytes(block: bytes) -> None:
    check(block)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200), ascii_only=st.booleans(), fill=st.integers(0, 40))
@example(text="\\" * 17, ascii_only=True, fill=0)
def test_texts_come_back(text: str, ascii_only: bool, fill: int) -> None:
    """At every offset from where sixteen bytes are read at a time."""
    text = "x" * fill + text.replace("\0", "0")
    assert text_of(json.dumps({"text": text}, ensure_ascii=ascii_only)) == text


@pytest.mark.parametrize("name", DATA_FILES)
def test_real_files_with_one_percent_of_their_bytes_flipped(shared_data: Path, name: str) -> None:
    clean = (shared_data / name).read_bytes()[:400_000]
    keys = ["question", "answer", "input", "output"]
    assert not check(clean[: clean.rindex(b"\n")], keys).bad
    rng = np.random.default_rng(5)
    damaged = np.frombuffer(clean, np.uint8).copy()
    at = rng.choice(len(damaged), len(damaged) // 100, replace=False)
    damaged[at] = rng.integers(0, 256, len(at))
    scanned = check(damaged.tobytes(), keys)
    reasons = {line.reason.partition(":")[0] for line in scanned.bad}
    assert {"not JSON", "invalid UTF-8"} <= reasons


@pytest.mark.parametrize("name", DATA_FILES)
def test_real_files_with_a_few_bytes_flipped(shared_data: Path, name: str) -> None:
    """Few enough that many damaged lines are still JSON."""
    lines = (shared_data / name).read_bytes()[:150_000].split(b"\n")[:-1]
    rng = np.random.default_rng(6)
    for _ in range(10):
        for row, line in enumerate(lines):
            damaged = bytearray(line)
            damaged[rng.integers(len(damaged))] = rng.choice(list(b'"\\{}[],: \x00\xc3\xa9azn0u'))
            lines[row] = bytes(damaged) if b"\n" not in damaged else line
        check(b"\n".join(lines), ["question", "answer", "input", "output"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON: ',' or '}' expected at byte 12"),
        (b"{'text': 1}", "not JSON: a key expected at byte 1"),
        (b'{"text": "a\x00b"}', "not JSON: no control character inside a string expected"),
        (b'{"text": "\\x41"}', "not JSON: an escape"),
        (b'{"text": "\\u12G4"}', "not JSON: an escape"),
        (b'{"text": "abc', "not JSON: the end of a string"),
        (b'{"text": "abc\\', "not JSON"),
        (b'{"text": 01}', "not JSON"),
        (b'{"text": 1.}', "not JSON"),
        (b'{"text": -NaN}', "not JSON"),
        (b'{"text": 1,}', "not JSON"),
        (b'{"text": [1,]}', "not JSON"),
        (b"{} {}", "not JSON: the end of the line"),
        (b"\x0b", "not JSON"),
        (b"not JSON", "not JSON"),
        (b"[1, 2]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b'{"text": "caf\xe9"}', "invalid UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"text": "\xc0\x80"}', "invalid UTF-8"),
        (b'{"text": "\xf4\x90\x80\x80"}', "invalid UTF-8"),
        (b'{"other": "\xff"}', "invalid UTF-8"),
        (b'{"te\xfft": 1', "invalid UTF-8"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte order mark"),
        (b"\xef\xbb\xbf", "byte order mark"),
        (b' \xef\xbb\xbf{"text": "a"}', "not JSON"),
        (b'{"text": "a", "id": "\\ud800"}', "half a surrogate pair"),
        ("ÿþ{}".encode("latin-1"), "invalid UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "invalid UTF-8"),
    ],
)
def test_reasons(line: bytes, reason: str) -> None:
    assert reason_of(line).startswith(reason)
    assert reason_of(b'{"text": "a"}') == ""  # control


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (r'{"text": "\u0041\u00e9\u20ac\ud83d\ude00\/\b\f\n\r\t\"\\"}', Kind.STRING, None),
        (r'{"te\u0078t": "keys are spelled too"}', Kind.STRING, "keys are spelled too"),
        (r'{"text": 5, "text": "last"}', Kind.STRING, "last"),
        (r'{"text": "\ud800", "\u0074ext": "last"}', Kind.STRING, "last"),
        (r'{"text": "first", "text": null}', Kind.NULL, ""),
        (r'{"text": "a\u0000b"}', Kind.NUL_STRING, "a\0b"),
        (r'{"text": "\ud800"}', Kind.HALF_PAIR, ""),
        (r'{"text": "\ude00\ud83d"}', Kind.HALF_PAIR, ""),
        (r'{"text": "\ud83d\u0041"}', Kind.HALF_PAIR, ""),
        (r'{"text": "\ud83d\ud83d\ude00"}', Kind.HALF_PAIR, ""),
        (r'{"other": "\ud800 \u0000"}', Kind.ABSENT, ""),
        ('{"text": NaN}', Kind.NUMBER, "NaN"),
        ('{"text": -Infinity}', Kind.NUMBER, "-Infinity"),
        ('{"text": -0.5e+10}', Kind.NUMBER, "-0.5e+10"),
        ('{"text": true}', Kind.BOOL, "true"),
        ('{"text": [ {"a": "]"} ]}', Kind.ARRAY, '[ {"a": "]"} ]'),
        ('{"text": {}}\r', Kind.OBJECT, "{}"),
        ('\t {"text":\r"CR is space"} \r', Kind.STRING, "CR is space"),
        ("{}", Kind.ABSENT, ""),
    ],
)
def test_kinds(line: str, kind: Kind, text: str | None) -> None:
    column = check(line.encode()).columns["text"]
    assert column.kinds.tolist() == [kind]
    assert column.value(0).decode() == (json.loads(line)["text"] if text is None else text)


def test_rows_between_blank_and_bad_lines() -> None:
    block = b'{"a": "1"}\r\n\n \t\r\nbad\n{"a": "2", "id": 7}\n[]\n{"id": "x"}'
    scanned = check(block)
    assert (scanned.num_lines, scanned.num_blank) == (7, 2)
    assert scanned.rows.tolist() == [0, 4, 6]
    assert [line[:3] for line in scanned.bad] == [(3, 17, 3), (5, 41, 2)]
    assert [block[b : b + n] for b, n in scanned.spans.tolist()] == [
        b'{"a": "1"}\r', b'{"a": "2", "id": 7}', b'{"id": "x"}',
    ]  # fmt: skip
    assert scanned.columns["a"].present.tolist() == [True, True, False]
    assert [scanned.ids.value(row) for row in range(3)] == [b"", b"7", b"x"]


@pytest.mark.parametrize(
    ("member", "identity"),
    [('"é\\n"', "é\n"), ("12", "12"), ("1.50", "1.50"), ("1" * 5000, "1" * 5000),
     ("null", ""), ("true", ""), ("[1]", ""), ('{"id": 3}', "")],
)  # fmt: skip
def test_ids(member: str, identity: str) -> None:
    block = f'{{"id": {member}}}'.encode()
    assert check(block, []).ids.value(0).decode() == identity
    both = check(block, ["id"])  # the key may be asked for as well
    assert both.ids.value(0).decode() == identity
    assert (both.columns["id"].value(0).decode() == member) == (member[0] not in '"n')


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"b":'])
def test_nesting(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}", '[{"b":': "}]"}[opening]
    levels = len(closing)
    fits = 127 // levels
    assert reason_of(f'{{"x": {opening * fits}1{closing * fits}}}'.encode()) == ""
    assert reason_of(f'{{"x": {opening * 128}1{closing * 128}}}'.encode()).startswith("nested deep")
    for key in ("x", "text"):  # passed over, or copied
        bomb = f'{{"{key}": {opening * 1_000_000}'.encode()
        assert scan_lines(bomb, ["text"]).bad[0].reason == "nested deeper than 128"
    assert scan_lines(opening.encode() * 1_000_000, []).bad[0].reason == "nested deeper than 128"
    assert scan_lines(b"]" * 1_000_000, []).bad[0].reason.startswith("not JSON")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "u1")])
def test_any_contiguous_bytes(kind: Any) -> None:
    assert scan_lines(kind(b'{"text": "a"}'), ["text"]).columns["text"].value(0) == b"a"
    assert scan_lines(kind(b""), ["text"]).num_lines == 0
    for wrong in (np.zeros(4, np.int16), np.zeros((4, 4), np.uint8)[:, 1], memoryview(b"ab")[::-1]):
        with pytest.raises(ValueError, match="must be contiguous bytes"):
            scan_lines(wrong, [])
    with pytest.raises(ValueError, match="key 'x' is given twice"):
        scan_lines(b"", ["x", "y", "x"])


def test_a_line_of_many_megabytes() -> None:
    text = 'long "line" of \\text\n' * 1_500_000
    block = json.dumps({"other": text, "text": text, "id": "n"}).encode()
    scanned = scan_lines(block, ["text"])
    assert scanned.columns["text"].value(0) == text.encode()
    assert scan_lines(block[:-2], ["text"]).bad[0].reason.startswith("not JSON")


GROWTH = """
import re
from pathlib import Path
import numpy as np
from megatron_math.native.json_lines import scan_lines
line = np.full(80_000_000, ord("x"), np.uint8)
line[:10], line[-2:] = np.frombuffer(b'{"text": "', np.uint8), np.frombuffer(b'"}', np.uint8)

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak_kib()
texts = scan_lines(line, ["text", "problem", "solution", "answer"])
assert len(texts.rows) == 1
print(peak_kib() - before)
"""


def test_a_scan_takes_the_memory_of_what_it_keeps() -> None:
    result = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True)
    assert 70_000 < int(result.stdout) < 90_000  # KiB


def test_threads_scan_side_by_side() -> None:
    """The interpreter lock is let go: a Python loop runs on while a long block is scanned."""
    block = json.dumps({"text": "a\n" * 20_000_000}).encode()
    sys.setswitchinterval(1e-4)
    ticks, done = 0, threading.Event()

    def scan() -> None:
        scan_lines(block, ["text"])
        done.set()

    thread = threading.Thread(target=scan)
    thread.start()
    while not done.is_set():
        ticks += 1
    thread.join()
    assert ticks > 1_000
