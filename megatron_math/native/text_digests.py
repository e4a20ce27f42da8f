"""Typed door to csrc/text_digests.cpp: 16 bytes for each text, the same for the same words.

White space is squeezed and case folded as Python's str.split and str.casefold do, then BLAKE2b.
The readable twin is `reference_text_digests`.
"""

import functools

from megatron_math import _native  # type: ignore[attr-defined]
from megatron_math.native.texts import ByteArray, Int64Array

DIGEST_BYTES = 16
_FOLDED_END = 0x1F000  # no character from here on has case, or is white space


@functools.cache
def _folding() -> "_native.Folding":
    """The one table of the process, from the interpreter's own."""
    changed = []
    for code in range(0x80, _FOLDED_END):
        letter = chr(code)
        folded = letter.casefold()
        if folded != letter or letter.isspace():
            changed.append((code, b" " if letter.isspace() else folded.encode()))
    return _native.Folding(changed)


def digests(text: ByteArray, offsets: Int64Array) -> ByteArray:
    """uint8[texts, 16]. Text i is text[offsets[i] : offsets[i + 1]]; bytes that are no UTF-8, such
    as half a surrogate pair, stay as they are."""
    return _folding().digests(text, offsets)
