"""Threads that turn blocks into tokens, and the hand-over in order.

What is heavy (scanning, encoding, framing, digests) lets go of the interpreter lock, so threads of
one process are enough and nothing is copied between processes.
"""

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from megatron_math.index.blocks import BEGINS_BYTES, BLOCK_BYTES, Block, LongLine
from megatron_math.index.documents import (
    EncodedDocuments,
    Texts,
    differing_documents,
    encode_texts,
    make_texts,
    scan_block,
)
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Span
from megatron_math.native.json_lines import BadLine
from megatron_math.tokenizer import Tokenizer
from megatron_math.tokenizer.encoder import Encoder

LARGE_BYTES = 1 << 20  # of a document that is compared with the reference as a whole
BLOCKS_AHEAD = 2  # a worker: bounds memory, and keeps everyone busy while a slow block is awaited


class Refused(NamedTuple):
    """A line that no document is made of.

    line: inside its block, from 0. byte: where it begins in the file's text. num_bytes: of the
    line; both 0 for a row of parquet. begins: what it begins with.
    """

    line: int
    byte: int
    num_bytes: int
    reason: str
    begins: bytes


@dataclass(frozen=True)
class EncodedColumn:
    """What one recipe makes of a block.

    documents: None where there are none. num_quarantined: lines that this recipe cannot use.
    num_compared: texts that the reference tokenizer encoded too; differs: one that came out
    otherwise.
    """

    documents: EncodedDocuments | None
    num_empty: int
    num_quarantined: int
    num_compared: int = 0
    differs: str | None = None

    @property
    def num_documents(self) -> int:
        return len(self.documents.lengths) if self.documents else 0

    @property
    def num_tokens(self) -> int:
        return len(self.documents.tokens) if self.documents else 0

    @property
    def text_bytes(self) -> int:
        return self.documents.text_bytes if self.documents else 0


@dataclass(frozen=True)
class EncodedBlock:
    """What a worker makes of a block: one EncodedColumn a recipe.

    refused: by line; a line that several recipes cannot use is there once for each reason.
    """

    num_lines: int
    num_blank: int
    refused: list[Refused]
    columns: list[EncodedColumn]


@dataclass(frozen=True)
class Task:
    """A block, the span it is of, its unit, and how much of its text is to be checked."""

    span: Span
    block: Block
    unit: int
    check_bytes: int


@dataclass(frozen=True)
class EndOfSpan:
    """All of a span has been read."""

    span: Span


class BlockEncoder:
    """What every worker does."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        tokenizer: Tokenizer,
        encoder: Encoder,
        append_eod: bool,
        max_line_bytes: int,
        is_fast: bool,
    ) -> None:
        """is_fast: `encoder` is another one than the reference, and may turn out to differ."""
        self.keys = tuple(dict.fromkeys(key for recipe in recipes for key in recipe.keys))
        self._recipes, self._tokenizer, self._encoder = recipes, tokenizer, encoder
        self._append_eod, self._max_line_bytes = append_eod, max_line_bytes
        self._is_fast = is_fast

    def encode(self, task: Task) -> EncodedBlock:
        block = task.block
        if isinstance(block.content, LongLine):
            reason = f"longer than {self._max_line_bytes} bytes"
            line = Refused(0, block.begin, block.content.num_bytes, reason, block.content.begins)
            columns = [EncodedColumn(None, 0, 1) for _ in self._recipes]
            return EncodedBlock(1, 0, [line], columns)
        scanned = scan_block(block.content, self._recipes)
        refused: dict[BadLine, None] = {}
        columns = []
        for recipe in self._recipes:
            texts = make_texts(scanned, recipe, self._tokenizer)
            refused |= dict.fromkeys(texts.bad)
            columns.append(self._encode(texts, task.check_bytes))
        return EncodedBlock(
            num_lines=scanned.num_lines,
            num_blank=scanned.num_blank,
            refused=[_with_beginning(line, block) for line in sorted(refused)],
            columns=columns,
        )

    def _encode(self, texts: Texts, check_bytes: int) -> EncodedColumn:
        try:
            documents = encode_texts(
                texts, self._tokenizer, self._encoder, append_eod=self._append_eod
            )
        except ValueError as error:  # no roles for ids that are not the reference's
            if not self._is_fast:
                raise
            return EncodedColumn(None, 0, 0, differs=str(error))
        num_compared, differs = 0, None
        if check_bytes and self._is_fast and len(texts.rows):
            num_compared, differs = self._compare(texts, documents, check_bytes)
        return EncodedColumn(documents, texts.num_empty, len(texts.bad), num_compared, differs)

    def _compare(
        self, texts: Texts, documents: EncodedDocuments, check_bytes: int
    ) -> tuple[int, str | None]:
        """(documents compared, the first that the reference tokenizer encodes otherwise)."""
        if texts.offsets[1] <= LARGE_BYTES:
            num_compared, rows = differing_documents(
                texts,
                documents,
                self._tokenizer,
                append_eod=self._append_eod,
                at_least_bytes=check_bytes,
            )
            wrong = np.flatnonzero(np.isin(texts.rows, rows))
        else:  # of a book the reference would need minutes: its beginning will do
            end = check_bytes
            while end and texts.text[end] & 0xC0 == 0x80:
                end -= 1
            beginning = np.array([0, end], np.int64)
            num_compared = 1
            wrong = np.array(
                self._tokenizer.check_encoder(self._encoder, texts.text[:end], beginning), np.int64
            )
        if not len(wrong):
            return num_compared, None
        begin, end = texts.offsets[wrong[0]], texts.offsets[wrong[0] + 1]
        return num_compared, texts.text[begin:end].tobytes().decode("utf-8", "replace")


def _with_beginning(line: BadLine, block: Block) -> Refused:
    if not isinstance(block.content, memoryview):  # a row of parquet lies at no byte
        return Refused(line.line, 0, 0, line.reason, b"")
    begins = block.content[line.byte : line.byte + min(line.num_bytes, BEGINS_BYTES)].tobytes()
    return Refused(line.line, block.begin + line.byte, line.num_bytes, line.reason, begins)


def encode_in_order(
    tasks: Iterable[Task | EndOfSpan], encode: Callable[[Task], EncodedBlock], num_workers: int
) -> Generator[tuple[Task, EncodedBlock] | tuple[EndOfSpan, None]]:
    """Every task with its result, in the order of `tasks`, whatever `num_workers` is.

    One thread reads, `num_workers` encode. The tasks come back without their block's content.
    Raises what `tasks` or `encode` raised, in its place.
    """
    most_bytes = (num_workers + 1) * BLOCKS_AHEAD * BLOCK_BYTES
    in_flight = _InFlight(most_bytes)
    done: queue.SimpleQueue[tuple[Any, Future[EncodedBlock] | None]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for task in tasks:
                if isinstance(task, EndOfSpan):
                    done.put((task, None))
                elif in_flight.enter(task.block.num_bytes):
                    # A block's text goes once it is encoded, not when its turn to be written comes.
                    turn = replace(task, block=replace(task.block, content=None))
                    done.put((turn, pool.submit(encode, task)))
                else:
                    return
            done.put((None, None))
        except BaseException as error:  # noqa: BLE001 - handed on
            done.put((error, None))

    with _one_thread_each(), ThreadPoolExecutor(num_workers, "encode") as pool:
        reader = threading.Thread(target=read, name="read")
        reader.start()
        try:
            while True:
                task, result = done.get()
                if task is None:
                    return
                if isinstance(task, BaseException):
                    raise task
                yield (task, None) if result is None else (task, result.result())
                if result is not None:
                    in_flight.leave(task.block.num_bytes)
        finally:
            in_flight.close()
            pool.shutdown(wait=False, cancel_futures=True)
            reader.join()


class _InFlight:
    """Bytes that are read and not yet written; one block always has room."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._is_closed = False
        self._changed = threading.Condition()

    def enter(self, num_bytes: int) -> bool:
        """Wait for room; False when the work has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or not self._bytes
                    or self._bytes + num_bytes <= self._most_bytes
                )
            )
            self._bytes += num_bytes
            return not self._is_closed

    def leave(self, num_bytes: int) -> None:
        with self._changed:
            self._bytes -= num_bytes
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()


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
