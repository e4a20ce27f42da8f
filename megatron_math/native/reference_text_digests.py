"""The readable twin of `text_digests`."""

import hashlib
from collections.abc import Sequence

import numpy as np

from megatron_math.native.text_digests import DIGEST_BYTES


def digest(text: str) -> bytes:
    words = " ".join(text.split()).casefold()
    hashed = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES)
    return hashed.digest()


def digests(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(digest, texts)), np.uint8).reshape(-1, DIGEST_BYTES)
