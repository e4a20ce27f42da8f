r"""Typed door to csrc/words.cpp: texts as words that can be compared.

Characters first: case is folded, compatibility forms (full width, ligatures, styled letters,
superscripts) become what they stand for, accents follow their letters whether they were composed
or not, invisible format characters vanish, and every ideograph, kana and Hangul syllable stands
alone. A byte that is no UTF-8 separates. Then one of four ways to split:

    PLAIN    runs of letters, digits and '_'
    MATH     runs of letters (an apostrophe inside is left out) and numbers: 1,000 and 1{,}000 are
             1000, 2.50 is 2.5, .5 is 0.5; \pi is the word pi; LaTeX for layout, sizes, fonts and
             operators is left out like their signs: \left \, \frac \times + /
    NUMBERS  MATH with a mark, '#', in the place of every number, in figures or words (three), and
             with operators, signs (+ - = / ^ < >, hyphens aside) or commands, as words
    CHUNKS   runs of anything but white space, punctuation included

The tables of characters come from the interpreter's `unicodedata`. The readable twin is
`reference_words`.
"""

import functools
import re
import unicodedata
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from megatron_math import _native  # type: ignore[attr-defined]


class Splitting(IntEnum):
    """The four ways to split a text into words."""

    PLAIN = 0
    MATH = 1
    NUMBERS = 2
    CHUNKS = 3


class CharacterKind(IntEnum):
    """What a character does beside becoming bytes."""

    SEPARATOR = 0
    TEXT = 1
    ALONE = 2
    MARK = 3
    """Joins the letter, digit or mark before it; separates where there is none."""
    IGNORED = 4


class Word(NamedTuple):
    """form: what is compared, UTF-8. begin, end: bytes of the text that it came from."""

    form: bytes
    begin: int
    end: int


TABLE_END = 0x20000
"""Code points from here on are ideographs to 0x40000; the others there separate."""
SEPARATOR = b"\x01"
NUMBER_MARK = b"#"
APOSTROPHES = "\u2019\u02bc"
MINUS = "\u2212"
_IDEOGRAPHS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In lower case, as everything is by then: sizes, fonts, layout, fences.
DROPPED_COMMANDS = _names("""
    left right middle big bigl bigr bigm bigg biggl biggr biggm
    text textbf textit textrm textsf texttt textup textnormal mbox hbox mathrm mathbf mathit
    mathsf mathtt mathcal mathbb mathfrak mathscr mathop mathbin mathrel mathord operatorname
    boldsymbol pmb bm rm bf it sf tt em emph
    displaystyle textstyle scriptstyle limits nolimits quad qquad enspace thinspace negthinspace
    noindent par newline linebreak nonumber notag hfill vfill smallskip medskip bigskip centering
    item hline strut mathstrut phantom prime backslash dollar circ degree colon
    vert lvert rvert lbrace rbrace langle rangle lfloor rfloor lceil rceil
""")
OPERATOR_COMMANDS = _names("""
    sqrt over times cdot div pm mp ast star le leq leqslant ge geq geqslant ne neq lt gt ll gg
    approx equiv sim simeq cong propto to gets mapsto rightarrow leftarrow longrightarrow
    leftrightarrow implies iff dots ldots cdots vdots ddots dotsc dotsb mid
""")
DROPPED_WITH_ARGUMENT = _names("begin end hspace vspace label tag color")
FRACTION_COMMANDS = _names("frac dfrac tfrac cfrac binom dbinom tbinom")
"""Left out, too; what follows may be two single figures, as in \\frac12."""
NUMBER_WORDS = _names("""
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    thousand million billion
""")


def character(letter: str) -> tuple[CharacterKind, bytes]:
    """What a character that is not ASCII becomes, but in CHUNKS."""
    kind, code = unicodedata.category(letter), ord(letter)
    if kind == "Cf":
        return CharacterKind.IGNORED, b""
    if kind in ("Cn", "Co", "Cs"):
        return CharacterKind.SEPARATOR, b""
    if letter in APOSTROPHES:
        return CharacterKind.TEXT, b"'"
    if letter == MINUS:
        return CharacterKind.TEXT, b"-"
    if 0xAC00 <= code <= 0xD7A3:
        return CharacterKind.ALONE, letter.encode()
    mapped = _fold(letter)
    if kind[0] == "M":
        return CharacterKind.MARK, mapped.encode()
    if letter.isspace():
        return CharacterKind.TEXT, b" "
    if not letter.isalnum():
        return (
            (CharacterKind.TEXT, mapped.encode())
            if mapped.isascii()
            else (CharacterKind.SEPARATOR, b"")
        )
    form, is_alone = b"", False
    for part in mapped:
        if is_ideograph(part) and part.isalnum():
            form += (SEPARATOR if form else b"") + part.encode()
            is_alone = True
        elif part.isascii():
            form += part.encode()
        elif unicodedata.decimal(part, None) is not None:
            form += str(unicodedata.decimal(part)).encode()
        elif part.isalnum() or unicodedata.category(part)[0] == "M":
            form += part.encode()
        else:
            form += SEPARATOR
    return (CharacterKind.ALONE if is_alone else CharacterKind.TEXT), form


def chunk_character(letter: str) -> tuple[CharacterKind, bytes]:
    """What a character that is not ASCII becomes in CHUNKS."""
    if letter.isspace():
        return CharacterKind.TEXT, b" "
    if unicodedata.category(letter) == "Cf":
        return CharacterKind.IGNORED, b""
    return CharacterKind.TEXT, _fold(letter).encode()


def is_ideograph(letter: str) -> bool:
    return _IDEOGRAPHS.match(letter) is not None


def _fold(letter: str) -> str:
    is_hangul = 0xAC00 <= ord(letter) <= 0xD7A3  # decomposed by rule, not by the table
    if not unicodedata.decomposition(letter) and not is_hangul and letter.casefold() == letter:
        return letter  # most of them; what follows takes ten times as long
    folded = unicodedata.normalize("NFKD", letter).casefold()
    return unicodedata.normalize("NFKD", folded).casefold()


@functools.cache
def _characters(chunks: bool) -> tuple[list[int], list[int], bytes, bool]:
    """What C++ knows of characters: kinds, where the bytes of each begin, the bytes, and whether
    what is not in the table stays."""
    separator, text, alone = (int(CharacterKind[k]) for k in ("SEPARATOR", "TEXT", "ALONE"))
    kinds, forms = bytearray([separator]) * (TABLE_END - 0x80), [b""] * (TABLE_END - 0x80)
    for place in range(len(kinds)):
        letter = chr(0x80 + place)
        category = unicodedata.category(letter)
        if category == "Cs":
            continue  # half a pair is never met in UTF-8
        if chunks:
            kinds[place], forms[place] = chunk_character(letter)
        elif category == "Lo" and not unicodedata.decomposition(letter):  # as `character` says, but
            kinds[place] = (
                alone if _IDEOGRAPHS.match(letter) else text
            )  # most are such, and it is slow
            forms[place] = letter.encode()
        elif category not in ("Cn", "Co"):
            kinds[place], forms[place] = character(letter)
    offsets = np.cumsum([0, *map(len, forms)], dtype=np.int32)
    return list(kinds), offsets.tolist(), b"".join(forms), chunks


@functools.cache
def splitter(*, chunks: bool = True) -> "_native.Splitter":
    """The splitter of the process; without `chunks` it cannot do CHUNKS, whose table takes time."""
    none: tuple[list[int], list[int], bytes, bool] = ([], [0], b"", True)
    commands = [
        *((name, 1) for name in sorted(DROPPED_COMMANDS)),
        *((name, 2) for name in sorted(DROPPED_WITH_ARGUMENT)),
        *((name, 3) for name in sorted(FRACTION_COMMANDS)),
        *((name, 4) for name in sorted(OPERATOR_COMMANDS)),
    ]
    tables = _characters(False), _characters(True) if chunks else none
    return _native.Splitter(*tables, commands, sorted(NUMBER_WORDS))


def split(text: bytes, splitting: Splitting) -> list[Word]:
    """The words of one text, for looking at; searches split by themselves."""
    words = splitter(chunks=splitting == Splitting.CHUNKS).split(
        int(splitting), np.frombuffer(text, np.uint8)
    )
    return [Word(*word) for word in words]
