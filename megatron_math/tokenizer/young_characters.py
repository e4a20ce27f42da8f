"""Characters that libraries know or do not know, by the Unicode version they were built with.

Byte-level tokenizers cut text at letters, numbers and punctuation before they look words up, and
what a letter is comes from such tables. tiktoken 0.14 and tokenizers 0.23 know Unicode 16,
gigatoken 0.10.1 knows 17: of all 1,112,064 characters exactly the 4,803 that are new in 17 gave
other ids in some context. So texts with a character younger than Unicode 15.0 are the reference's.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

# Assigned since 15.1, 18 included; gaps in which no older character lies are filled.
YOUNG = """
88F 897 B53-B54 C5C CDC 1ACF-1AF0 1B4E-1B4F 1B7F 1C89-1C8A 208F 209D-209F 20C1-20C4 2427-2429 2B96
2E60-2E63 2FFC-2FFF 31E4-31EF A7CB-A7CF A7D2 A7D4 A7DA-A7F1 AB6C-AB6D FBC3-FBD2 FD90-FD91 FDC8-FDCE
105C0-105F3 107BB-107BF 10940-10959 10D40-10D8F 10EC2-10EFC 11380-113E2 116D0-116E3 11B0A
11B60-11B67 11BC0-11BF9 11DB0-11DF1 11F5A 1246F 12475-1247F 12550-12686 13460-143FA 16100-16139
16D40-16D79 16EA0-16ED3 16FF2-16FF6 187F8-187FF 18CD6-18CFF 18D09-18D20 18D80-191D2 1B123-1B128
1B168 1CC00-1CEFD 1D127-1D128 1D1EB-1D1FF 1D250-1D281 1D6A6 1DB00-1DB1C 1DF1F-1DF24 1DF2B-1DF96
1DFCD-1DFFF 1E5D0-1E5FF 1E6C0-1E6FF 1F1AE 1F6D8-1F6D9 1F777-1F77A 1F7DA-1F7DB 1F7F1-1F7FF
1F8B2-1F8D8 1FA54-1FA57 1FA89-1FA8F 1FABE 1FAC6-1FACD 1FADC-1FADF 1FAE9-1FAEF 1FAF9-1FAFA
1FBCB-1FBEF 1FBFA 2B739-2B73F 2B81E 2CEA2-2CEAD 2EBF0-2EE5D 323B0-33479 3D000-3FC3F
"""
FIRST_LEAD = 0xE0  # U+0800 and up have three bytes or four, and the first of them is this or more


@cache
def young_ranges() -> npt.NDArray[np.int64]:
    """First and last code point of each range, int64[n, 2]."""
    parts = [part.partition("-") for part in YOUNG.split()]
    return np.array([(int(first, 16), int(last or first, 16)) for first, _, last in parts])


@cache
def _tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(by code point: is it young; by two bytes: does a young character begin with them)"""
    is_young = np.zeros(0x110000, dtype=bool)
    for first, last in young_ranges():
        is_young[first : last + 1] = True
    begins_young = np.zeros((256, 256), dtype=bool)
    for code_point in np.flatnonzero(is_young).tolist():
        begins_young[tuple(chr(code_point).encode()[:2])] = True
    return is_young, begins_young


def young_texts(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Indexes of the texts, text[offsets[i]:offsets[i + 1]] in UTF-8, with a young character."""
    is_young, begins_young = _tables()
    start, end = int(offsets[0]), int(offsets[-1])
    part = text[start:end]
    at = _leads(part)
    at = at[begins_young[part[at], part[at + 1]]]
    if len(at) == 0:
        return at
    lead, has_four = part[at].astype(np.int64), part[at] >= 0xF0
    code_points = np.where(has_four, lead & 0x07, lead & 0x0F)
    for place in (1, 2):
        code_points = code_points << 6 | part[at + place] & 0x3F
    fourth = part[np.minimum(at + 3, len(part) - 1)] & 0x3F
    code_points = np.where(has_four, code_points << 6 | fourth, code_points)
    found = at[is_young[code_points]] + start
    return np.unique(np.searchsorted(offsets, found, side="right") - 1)


def _leads(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Where bytes from FIRST_LEAD on stand: looked for in eights, of which most have none."""
    is_lead = np.zeros(-(-len(part) // 8) * 8, dtype=bool)
    np.greater_equal(part, FIRST_LEAD, out=is_lead[: len(part)])
    eights = np.flatnonzero(is_lead.view(np.uint64) != 0)  # of numbers it takes thrice the time
    at = (8 * eights[:, None] + np.arange(8)).reshape(-1)
    return at[is_lead[at]]
