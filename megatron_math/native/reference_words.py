"""The readable twin of `words`: the same words, by strings and regular expressions."""

import re

from megatron_math.native.words import (
    DROPPED_COMMANDS,
    DROPPED_WITH_ARGUMENT,
    FRACTION_COMMANDS,
    NUMBER_MARK,
    NUMBER_WORDS,
    OPERATOR_COMMANDS,
    SEPARATOR,
    TABLE_END,
    CharacterKind,
    Splitting,
    Word,
    character,
    chunk_character,
    is_ideograph,
)

_LETTER, _JOINED = rb"[a-z\x80-\xff]", rb"[a-z0-9\x80-\xff]"
_PLAIN = re.compile(rb"[a-z0-9_\x80-\xff]+")
_CHUNK = re.compile(rb"[^ \t-\r\x1c-\x1f]+")
_THOUSANDS = rb"(?:,\\!|,|\{,\}|\\,)[0-9]{3}(?![0-9])"
_NUMBER = (
    rb"(?:[0-9]{1,3}(?![0-9])(?:" + _THOUSANDS + rb")*|[0-9]+)(?:\.[0-9]+)?"
    rb"|(?<!" + _JOINED + rb")\.[0-9]+"
)
_MATH = re.compile(
    rb"(?P<letters>" + _LETTER + rb"+(?:'" + _LETTER + rb"+)*)"
    rb"|(?P<number>" + _NUMBER + rb")"
    rb"|\\(?:(?P<command>[a-z]+)|[^a-z0-9\x80-\xff]|)"
    rb"|(?P<sign>[+=/^<>-])",
    re.DOTALL,
)
_ARGUMENT = re.compile(rb" *\{[^{}]{0,40}\}", re.DOTALL)
_HYPHEN = re.compile(_LETTER + rb"-" + _LETTER)
_FIGURE = re.compile(rb" *([0-9])")


def split(text: bytes, splitting: Splitting) -> list[Word]:
    """Twin of words.split."""
    mapped, origin = map_characters(text, chunks=splitting == Splitting.CHUNKS)
    if splitting in (Splitting.PLAIN, Splitting.CHUNKS):
        pattern = _PLAIN if splitting == Splitting.PLAIN else _CHUNK
        found = [(match[0], *match.span()) for match in pattern.finditer(mapped)]
    else:
        found = _math_words(mapped, marked=splitting == Splitting.NUMBERS)
    return [Word(form, origin[begin][0], origin[end - 1][1]) for form, begin, end in found]


def map_characters(text: bytes, *, chunks: bool) -> tuple[bytes, list[tuple[int, int]]]:
    """The mapped text and, for each of its bytes, where in `text` the character is."""
    mapped, at, alone = bytearray(), 0, False
    origin: list[tuple[int, int]] = []
    for letter in text.decode("utf-8", "surrogateescape"):
        kind, form = _character(letter, chunks)
        end = at + len(letter.encode("utf-8", "surrogateescape"))
        if kind == CharacterKind.MARK and not re.match(_JOINED, mapped[-1:]):
            kind = CharacterKind.SEPARATOR
        if kind == CharacterKind.SEPARATOR:
            form = SEPARATOR
        if kind not in (CharacterKind.MARK, CharacterKind.IGNORED):
            if alone or kind == CharacterKind.ALONE:
                form = SEPARATOR + form
            alone = kind == CharacterKind.ALONE
        mapped += form
        origin += [(at, end)] * len(form)
        at = end
    return bytes(mapped), origin


def _character(letter: str, chunks: bool) -> tuple[CharacterKind, bytes]:
    code = ord(letter)
    if code < 0x80:
        return CharacterKind.TEXT, letter.lower().encode()
    if 0xD800 <= code < 0xE000:
        return CharacterKind.SEPARATOR, b""
    if code < TABLE_END:
        return chunk_character(letter) if chunks else character(letter)
    if chunks:
        return CharacterKind.TEXT, letter.encode()
    return (CharacterKind.ALONE if is_ideograph(letter) else CharacterKind.SEPARATOR), (
        letter.encode()
    )


def _math_words(mapped: bytes, *, marked: bool) -> list[tuple[bytes, int, int]]:
    """marked: numbers are marks, and operators are words, too."""
    found, at = [], 0
    while match := _MATH.search(mapped, at):
        begin, at = match.span()
        name = (match["command"] or b"").decode()
        if match["letters"]:
            word = match[0].replace(b"'", b"")
            is_number = marked and word.decode("utf-8", "replace") in NUMBER_WORDS
            found.append((NUMBER_MARK if is_number else word, begin, at))
        elif match["number"]:
            found.append((NUMBER_MARK if marked else _plain_number(match[0]), begin, at))
        elif match["sign"]:
            is_hyphen = _HYPHEN.match(mapped, begin - 1) if begin else None
            if marked and not is_hyphen:
                found.append((match[0], begin, at))
        elif name in FRACTION_COMMANDS:
            if marked:
                found.append((match["command"], begin + 1, at))
            for _ in range(2):
                if figure := _FIGURE.match(mapped, at):
                    at = figure.end()
                    found.append((NUMBER_MARK if marked else figure[1], at - 1, at))
        elif name in DROPPED_WITH_ARGUMENT:
            if argument := _ARGUMENT.match(mapped, at):
                at = argument.end()
        elif name and name not in DROPPED_COMMANDS and (marked or name not in OPERATOR_COMMANDS):
            is_number = marked and name in NUMBER_WORDS
            found.append((NUMBER_MARK if is_number else name.encode(), begin + 1, at))
    return found


def _plain_number(text: bytes) -> bytes:
    """2,500.50 as 2500.5."""
    whole, _, fraction = re.sub(rb"[^0-9.]", b"", text).partition(b".")
    whole, fraction = whole.lstrip(b"0") or b"0", fraction.rstrip(b"0")
    return whole + (b"." + fraction if fraction else b"")
