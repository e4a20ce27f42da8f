"""GigatokenEncoder: the fast engine (PyPI gigatoken-cachefix), one copy a tokenizer.

Why this one, and the figures: docs/benchmarks/tokenizers.md. What was found out about it, 0.10.1:
loading a vocabulary of 128,000 takes half a second with the interpreter held, so that one copy
serves all threads. `encode_batch` lets go of the interpreter. Byte-level engines keep a cache of
words for each caller at work, bounded by CACHE_BYTES; a call of at most BATCH_BYTES stays on the
calling thread and keeps to one such cache. With `parallel=False` all callers would share one.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from megatron_math.tokenizer.encoder import (
    Encoder,
    Int32s,
    Int64s,
    UInt8s,
    flat_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from megatron_math.tokenizer.interface import Tokenizer

log = logging.getLogger(__name__)

# A thread. The engine keeps 32 MiB of it for short words, shares the rest between long ones and
# ids, and forgets all when one of the three is full. From 0.2 to 2 GB of text memory grows by 10 MB
# with 48 MiB, by 38 with 56 and by 52 with 64, and the larger takes 15.7, 14.4 and 14.0 s (medians,
# quiet, 2026-11-24); with the engine's own 512 it grows by hundreds.
CACHE_BYTES = 56 * 2**20
BATCH_BYTES = 2**21 - 1  # from 2 MiB on, the engine spreads a call over threads of its own
DISTRIBUTIONS = ("gigatoken-cachefix", "gigatoken")


class NotUsable(Exception):  # noqa: N818 - a state that has a way out, not an error
    """The engine cannot run this tokenizer here; says why."""


class LoadedEngine(NamedTuple):
    """The engine's copy of a tokenizer, and what it needs beside it."""

    name: str
    backend: Any
    awkward: Any
    words_are_cached: bool


def load_engine(engine_json: str | bytes) -> LoadedEngine:
    """Raises NotUsable when the engine is not installed or cannot load this tokenizer."""
    try:
        import awkward
        import gigatoken

        gigatoken.set_max_cache_bytes(CACHE_BYTES)
    except (ImportError, AttributeError) as error:
        raise NotUsable(f"gigatoken-cachefix cannot be used here: {error}") from None
    name = f"gigatoken {_version()}"
    try:
        backend = gigatoken.Tokenizer.from_json(engine_json).backend
    except BaseException as error:  # noqa: BLE001 - a Rust panic is a bare BaseException
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise NotUsable(f"{name} cannot load it: {_first_line(error)}") from None
    words_are_cached = isinstance(backend, gigatoken.gigatoken_rs.BPETokenizer)
    return LoadedEngine(name, backend, awkward, words_are_cached)


class GigatokenEncoder(Encoder):
    """Raises NotUsable as `load_engine` does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        loaded = tokenizer.loaded_engine or load_engine(tokenizer.engine_json())
        self.name, self.why = loaded.name, ""
        self._engine, self._awkward = loaded.backend, loaded.awkward
        self._words_are_cached = loaded.words_are_cached
        self._process = os.getpid()
        self._reference = tokenizer.open_checker()

    def encode_flat(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        ids, lengths = self._encode_all(text, offsets)
        if not self._words_are_cached:  # SentencePiece does not cut before it merges
            return ids, lengths
        young = self.find_young(text, offsets)
        if len(young) == 0:
            return ids, lengths
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        for i in young.tolist():
            rows[i] = self._reference.encode_flat(text, offsets[i : i + 2])[0]
        return flat_rows(rows)

    def _encode_all(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        rows = [self._encode(text, offsets[a : b + 1]) for a, b in batches_of(offsets)]
        if len(rows) == 1:
            return rows[0]
        ids = np.concatenate([np.empty(0, np.int32), *(row[0] for row in rows)])
        return ids, np.concatenate([np.empty(0, np.int32), *(row[1] for row in rows)])

    def _encode(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        start, end = int(offsets[0]), int(offsets[-1])
        contents, index = self._awkward.contents, self._awkward.index
        batch = self._awkward.Array(
            contents.ListOffsetArray(
                index.Index64(offsets - start),
                contents.NumpyArray(text[start:end], parameters={"__array__": "byte"}),
                parameters={"__array__": "bytestring"},
            )
        )
        # The engine's threads do not outlive a fork; waiting for them would never end.
        own_cache = self._words_are_cached and end - start <= BATCH_BYTES
        own_cache = own_cache and os.getpid() == self._process
        try:
            rows = self._engine.encode_batch(batch, parallel=own_cache).layout
        except BaseException as error:  # noqa: BLE001
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            log.warning(
                "%s failed on a batch of %d texts, %d bytes (%s); %s takes it",
                self.name, len(offsets) - 1, end - start, _first_line(error), self._reference.name,
            )  # fmt: skip
            return self._reference.encode_flat(text, offsets)
        ends = np.asarray(rows.offsets.data)
        ids = np.asarray(rows.content.data)[ends[0] : ends[-1]]
        return ids.view(np.int32), np.diff(ends).astype(np.int32)


def batches_of(offsets: Int64s) -> Iterator[tuple[int, int]]:
    """(first, end) of runs of texts of at most BATCH_BYTES together, or of one larger text."""
    num_texts, first = len(offsets) - 1, 0
    while first < num_texts:
        most = int(offsets[first]) + BATCH_BYTES
        end = int(np.searchsorted(offsets, most, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def is_panic(error: BaseException) -> bool:
    """Whether a Rust library gave up in the middle."""
    return type(error).__name__ == "PanicException"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _version() -> str:
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
