"""A pool of processes that tokenizes blocks and gives them back in order."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from megatron_math.index.blocks import Block
from megatron_math.index.documents import EncodedBlock, Recipe, encode_block
from megatron_math.tokenizer import Tokenizer, load_tokenizer

BLOCKS_AHEAD = 3  # a worker: bounds memory, and keeps everyone busy while a slow block is awaited

_tokenizer: Tokenizer | None = None  # a worker's own, loaded once


def encode_blocks(
    blocks: Iterable[Block],
    recipes: Sequence[Recipe],
    tokenizer: Tokenizer,
    append_eod: bool,
    num_workers: int,
) -> Iterator[EncodedBlock]:
    """Encoded blocks in the order of `blocks`, whatever `num_workers` is.

    One worker is this process. Raises what a worker raised; RuntimeError when one died (of memory,
    most often).
    """
    with _one_thread_each():
        if num_workers == 1:
            for block in blocks:
                yield encode_block(block, recipes, tokenizer, append_eod)
            return
        pool = ProcessPoolExecutor(
            num_workers,
            mp_context=get_context("spawn"),  # fork would copy threads' locks, Rust's among them
            initializer=_start_worker,
            initargs=(str(tokenizer.path), tokenizer.kind, tokenizer.fingerprint),
        )
        try:
            yield from _in_order(pool, blocks, recipes, append_eod, BLOCKS_AHEAD * num_workers)
        except BrokenProcessPool:
            raise RuntimeError(
                "a tokenizing process was killed, most often for want of memory; give fewer workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    blocks: Iterable[Block],
    recipes: Sequence[Recipe],
    append_eod: bool,
    most: int,
) -> Iterator[EncodedBlock]:
    pending: deque[Future[EncodedBlock]] = deque()
    for block in blocks:
        pending.append(pool.submit(_encode_here, block, recipes, append_eod))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start_worker(path: str, kind: str, fingerprint: str) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = load_tokenizer(path, kind)
    assert _tokenizer.fingerprint == fingerprint, f"{path} changed while it was in use"


def _encode_here(block: Block, recipes: Sequence[Recipe], append_eod: bool) -> EncodedBlock:
    assert _tokenizer is not None
    return encode_block(block, recipes, _tokenizer, append_eod)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep the engine's own threads out: `workers` says how many cores are used."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
