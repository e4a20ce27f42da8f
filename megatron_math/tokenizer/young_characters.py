"""Characters that libraries know or do not know, by the Unicode version they were built with.

Byte-level tokenizers cut text at letters, numbers and punctuation before they look words up, and
what a letter is comes from such tables. tiktoken 0.14 and tokenizers 0.23 know Unicode 16,
gigatoken 0.10.1 knows 17: of all 1,112,064 characters exactly the 4,803 that are new in 17 gave
other ids in some context. So texts with a character younger than Unicode 15.0 are the reference's.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from megatron_math.native.texts import find_texts_with

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


@cache
def _is_young() -> npt.NDArray[np.uint8]:
    table = np.zeros(0x110000, dtype=np.uint8)
    for part in YOUNG.split():
        first, _, last = part.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] = 1
    return table


def young_texts(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Indexes of the texts, text[offsets[i]:offsets[i + 1]] in UTF-8, with a young character."""
    return find_texts_with(text, offsets, _is_young())
