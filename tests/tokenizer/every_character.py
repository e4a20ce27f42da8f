"""Every character of Unicode, in context, through the fast engine and the reference.

    python tests/tokenizer/every_character.py TOKENIZER...

Takes about a minute a tokenizer. Exits with 1 when any gives other ids.
"""

import sys

from corner_texts import in_context

from megatron_math.tokenizer import load_tokenizer
from megatron_math.tokenizer.encoder import flat_texts

AT_ONCE = 20_000
CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]


def main() -> int:
    num_differing = 0
    for path in sys.argv[1:]:
        tokenizer = load_tokenizer(path)
        encoder = tokenizer.open_encoder()
        differing: list[int] = []
        for start in range(0, len(CODE_POINTS), AT_ONCE):
            some = CODE_POINTS[start : start + AT_ONCE]
            buffers = flat_texts(map(in_context, some))
            differing += [some[i] for i in tokenizer.check_encoder(encoder, *buffers)]
        print(f"{path}: {encoder.name}; {len(CODE_POINTS)} characters, {len(differing)} differ")
        print(" ".join(f"U+{code_point:04X}" for code_point in differing[:100]))
        num_differing += len(differing)
    return int(num_differing > 0)


if __name__ == "__main__":
    sys.exit(main())
