"""What can be said of each record alone, for all records of a block, in threads.

Digests of the text and of the address, MinHash bands, hits of benchmark rows: all that costs time.
What depends on other records is decided afterwards, in the order of the records (passes.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from megatron_math.curate.blocks import Block, read_blocks
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import Searcher
from megatron_math.curate.dedup import url_key
from megatron_math.curate.lines import Lines, Mask
from megatron_math.curate.near_duplicates import open_hasher
from megatron_math.curate.scan import scan
from megatron_math.native.row_search import num_cores
from megatron_math.native.text_digests import DIGEST_BYTES, digests
from megatron_math.native.texts import ByteArray, Int64Array

AHEAD_PER_CORE = 2  # blocks
HIT_FIELDS = 9
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Examined:
    """Records and what was found out about each; what was not asked for has no columns.

    text_keys, url_keys: uint8[n, 16] digests, the latter of those with has_url. bands: uint64[n,
    bands], num_words: int64[n]. hits: int64[h, 9], as Searcher.search_flat has them, the first
    field being the record's row here.
    """

    lines: Lines
    text_keys: ByteArray
    url_keys: ByteArray
    has_url: Mask
    bands: npt.NDArray[np.uint64]
    num_words: Int64Array
    hits: Int64Array


class Examiner:
    """Finds out what `config` asks for."""

    def __init__(self, config: CurateConfig, searcher: Searcher | None) -> None:
        near = config.near_duplicates
        self._with_urls = config.same_url == "drop"
        self._with_keys = config.dedup == "exact" or near is not None
        self._hasher = open_hasher(near) if near is not None else None
        self._searcher = searcher

    def examine(self, block: Block, source: str) -> Examined:
        """Raises UserError, naming file and line, at the first line that is no record."""
        records = scan(block, source, with_urls=self._with_urls)
        text, offsets, count = records.text, records.offsets, len(records.lines)
        found = Examined(
            records.lines,
            np.zeros((count, 0), np.uint8),
            np.zeros((count, 0), np.uint8),
            np.zeros(count, bool),
            np.zeros((count, 0), np.uint64),
            np.zeros(count, np.int64),
            np.zeros((0, HIT_FIELDS), np.int64),
        )
        if records.urls is not None:
            keys = [url_key(url) for url in records.urls]
            flat = b"".join(key or bytes(DIGEST_BYTES) for key in keys)
            url_keys = np.frombuffer(flat, np.uint8).reshape(count, DIGEST_BYTES)
            has_url = np.array([key is not None for key in keys], bool)
            found = replace(found, url_keys=url_keys, has_url=has_url)
        if self._with_keys:
            found = replace(found, text_keys=digests(text, offsets))
        if self._hasher is not None:
            bands, num_words = self._hasher.bands_flat(text, offsets)
            found = replace(found, bands=bands, num_words=num_words)
        if self._searcher is not None:
            found = replace(found, hits=self._searcher.search_flat(text, offsets))
        return found

    def examine_files(self, source: str, paths: Iterable[Path]) -> Iterator[Examined]:
        """All records of these files, block by block, in their order."""
        blocks = (block for path in paths for block in read_blocks(path, source=source))
        yield from self.examine_blocks(source, blocks)

    def examine_blocks(self, source: str, blocks: Iterable[Block]) -> Iterator[Examined]:
        yield from in_threads(lambda block: self.examine(block, source), blocks)


def in_threads(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """work(item) of each, in the order of the items, a thread on every core."""
    cores = num_cores()
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD_PER_CORE * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
