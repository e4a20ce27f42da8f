"""Files of documents to indexes: read, tokenize in parallel, write whole or not at all.

Writes for every output `<prefix>.bin`, `.idx`, `.ids` (record ids) and, last, the sidecar `.json`;
nothing under these names changes before everything has been read and written.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, read_json, sha256_file, write_json
from megatron_math.base.log import log
from megatron_math.index.blocks import BLOCK_BYTES, Block, read_blocks
from megatron_math.index.documents import EncodedDocuments, Recipe
from megatron_math.index.progress import EncodeProgress
from megatron_math.index.record_ids import RecordIdsWriter
from megatron_math.index.workers import encode_blocks
from megatron_math.native.index_writer import IndexWriter
from megatron_math.tokenizer import Tokenizer

FORMAT, VERSION = "megatron-math index", 1
SUFFIXES = (".bin", ".idx", ".ids", ".json")


@dataclass(frozen=True)
class Output:
    """One index to write: path without suffix, and how a row becomes its text."""

    prefix: Path
    recipe: Recipe = Recipe()

    def path(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    @property
    def paths(self) -> list[Path]:
        return [self.path(suffix) for suffix in SUFFIXES]


def encode_files(
    files: Sequence[Path],
    outputs: Sequence[Output],
    tokenizer: Tokenizer,
    *,
    append_eod: bool,
    num_workers: int = 1,
    log_interval: int = 10_000,
    label: str = "index",
) -> list[dict[str, Any]]:
    """Write one index for every output from the same files, in order; returns the sidecars.

    The bytes depend on files, recipes, tokenizer and `append_eod` only. log_interval: documents.
    A document without text becomes one EOD (or, without EOD, a sequence of length 0), counted
    as `empty_documents`; blank lines are no documents. Raises UserError for a line that is not JSON
    or lacks its text (naming file and line), for files without documents, and for a file that
    changes meanwhile; OSError when the disk is full. Earlier files stay as they were then.
    """
    before = [_stamp(path) for path in files]
    with ExitStack() as stack:
        hasher = stack.enter_context(ThreadPoolExecutor(1))  # hashlib lets go of the interpreter
        digests = [hasher.submit(sha256_file, path) for path in files]
        stack.callback(lambda: [digest.cancel() for digest in digests])
        building = [stack.enter_context(_Building(output, tokenizer)) for output in outputs]
        num_documents = dict.fromkeys(map(str, files), 0)
        total_bytes = sum(stamp[0] for stamp in before)
        progress = stack.enter_context(EncodeProgress(label, total_bytes, log_interval))
        recipes = [output.recipe for output in outputs]
        useful = min(num_workers, 1 + total_bytes // BLOCK_BYTES)  # no process without a block
        blocks = encode_blocks(_blocks(files), recipes, tokenizer, append_eod, useful)
        for block in blocks:
            for index, column in zip(building, block.columns, strict=True):
                index.add(column, block.record_ids)
            num_documents[str(block.path)] += len(block.record_ids)
            progress.advance(
                disk_bytes=block.disk_bytes,
                num_documents=len(block.record_ids),
                num_tokens=sum(len(column.tokens) for column in block.columns),
                text_bytes=sum(column.text_bytes for column in block.columns),
            )
        if not any(num_documents.values()):
            raise UserError(f"no documents in {', '.join(map(str, files))}")
        sources = [
            {
                "path": str(path),
                "bytes": stamp[0],
                "sha256": digest.result(),
                "documents": num_documents[str(path)],
            }
            for path, stamp, digest in zip(files, before, digests, strict=True)
        ]
        for path, stamp in zip(files, before, strict=True):
            if _stamp(path) != stamp:
                raise UserError(f"{path} changed while it was being read; start again")
        sidecars = [index.finish(sources, append_eod) for index in building]
    log.info("%s: %d documents, %s", label, progress.num_documents, progress.rates())
    return sidecars


def reusable_sidecar(
    files: Sequence[Path], output: Output, tokenizer: Tokenizer, *, append_eod: bool
) -> dict[str, Any] | None:
    """The sidecar of an index that is there already and would come out the same; else None."""
    if not all(path.is_file() for path in output.paths):
        return None
    sidecar = read_json(output.path(".json"))
    same = sidecar.get("version") == VERSION and (
        sidecar["tokenizer"] == tokenizer.describe()
        and sidecar["append_eod"] == append_eod
        and sidecar["recipe"] == _describe(output.recipe)
        and [source["path"] for source in sidecar["sources"]] == [str(path) for path in files]
        and all(output.path("." + k).stat().st_size == sidecar[k]["bytes"] for k in ("bin", "idx"))
        and all(source["sha256"] == sha256_file(source["path"]) for source in sidecar["sources"])
    )
    return sidecar if same else None


class _Building:
    """One index on its way: the writer, the ids, the digest, the counts."""

    def __init__(self, output: Output, tokenizer: Tokenizer) -> None:
        self.output = output
        self.tokenizer = tokenizer
        self.text_bytes = self.num_empty = 0
        self._bin_digest = hashlib.sha256()

    def __enter__(self) -> Self:
        self.output.prefix.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._writer = stack.enter_context(IndexWriter(self.output.prefix, self.tokenizer.size))
            self._ids = RecordIdsWriter(
                stack.enter_context(atomic_open(self.output.path(".ids"), "wb"))
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)  # with an error: temporaries go, nothing is renamed

    def add(self, column: EncodedDocuments, record_ids: list[str]) -> None:
        self._writer.add_documents(column.tokens, column.lengths)
        self._bin_digest.update(column.tokens.data)
        self._ids.add(record_ids)
        self.text_bytes += column.text_bytes
        self.num_empty += column.num_empty

    def finish(self, sources: list[dict[str, Any]], append_eod: bool) -> dict[str, Any]:
        """Give all files their final names, the sidecar last; returns it."""
        self._ids.finish()
        sidecar_path = self.output.path(".json")
        sidecar_path.unlink(missing_ok=True)  # it would describe files that are no longer there
        self._writer.finish()
        self._stack.close()
        idx_path = self.output.path(".idx")
        sidecar = {
            "format": FORMAT,
            "version": VERSION,
            "documents": self._writer.num_documents,
            "empty_documents": self.num_empty,
            "tokens": self._writer.num_tokens,
            "text_bytes": self.text_bytes,
            "dtype": self._writer.dtype.name,
            "tokenizer": self.tokenizer.describe(),
            "append_eod": append_eod,
            "prepend_bos": self.tokenizer.adds_bos,
            "recipe": _describe(self.output.recipe),
            "sources": sources,
            "bin": {
                "bytes": self._writer.num_tokens * self._writer.dtype.itemsize,
                "sha256": self._bin_digest.hexdigest(),
            },
            "idx": {"bytes": idx_path.stat().st_size, "sha256": sha256_file(idx_path)},
        }
        write_json(sidecar_path, sidecar)
        if self.num_empty:
            log.warning("%s: %d documents have no text", self.output.prefix, self.num_empty)
        return sidecar


def _describe(recipe: Recipe) -> dict[str, str | None]:
    return {"key": recipe.key, "template": recipe.template}


def _blocks(files: Sequence[Path]) -> Iterator[Block]:
    for path in files:
        yield from read_blocks(path)


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes, and time of the last change in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
