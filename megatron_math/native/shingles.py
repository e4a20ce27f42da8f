"""Typed door to csrc/shingles.cpp: texts as sets of runs of words.

The readable twin is `reference_shingles`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]
from megatron_math.native.row_search import ByteArray, Int64Array, flatten, num_cores
from megatron_math.native.words import splitter

SEED = 1


class ShingleHasher:
    """MinHash signatures, cut into bands, of sets of runs of `shingle_words` words (PLAIN).

    A signature has the minima of num_bands x band_rows random permutations of 32-bit hashes: each
    is the same for two texts as often as their Jaccard index says. A text of fewer words than a
    run has one shingle of all of them. Raises ValueError for numbers below 1.
    """

    def __init__(self, shingle_words: int, num_bands: int, band_rows: int) -> None:
        self._native = _native.ShingleHasher(
            splitter(chunks=False), shingle_words, num_bands, band_rows, SEED
        )

    def bands(
        self, texts: Sequence[bytes], *, num_threads: int | None = None
    ) -> tuple[npt.NDArray[np.uint64], Int64Array]:
        """(bands uint64 [texts, num_bands], words of each text int64 [texts]).

        Two texts have the same number in a band where all minima of the band are the same.
        """
        return self.bands_flat(*flatten(texts), num_threads=num_threads or num_cores())

    def bands_flat(
        self, text: ByteArray, offsets: Int64Array, *, num_threads: int = 1
    ) -> tuple[npt.NDArray[np.uint64], Int64Array]:
        """The same of texts in one buffer."""
        return self._native.bands(text, offsets, num_threads)

    def jaccard(
        self,
        texts: Sequence[bytes],
        first: Int64Array,
        second: Int64Array,
        *,
        num_threads: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """|A and B| / |A or B| of the sets of texts first[i] and second[i], by 64-bit hashes."""
        return self.jaccard_flat(*flatten(texts), first, second, num_threads=num_threads)

    def jaccard_flat(
        self,
        text: ByteArray,
        offsets: Int64Array,
        first: Int64Array,
        second: Int64Array,
        *,
        num_threads: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """The same of texts in one buffer."""
        return self._native.jaccard(text, offsets, first, second, num_threads or num_cores())
