"""Back from documents to the rows they were made of: the source's line, and its tokens made anew.

Reads the `.ids` and sidecar beside an index and the source files as they are now.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.index.blocks import LongLine, read_blocks
from megatron_math.index.documents import encode_texts, make_texts, scan_block
from megatron_math.index.recipes import RECORD_KEYS, Recipe
from megatron_math.index.record_ids import RecordIds
from megatron_math.index.sidecar import read_sidecar
from megatron_math.tokenizer import Tokenizer

SHOWN_BESIDE = {"meta", "source", "answer"}  # members of a record that are no text of the document


@dataclass(frozen=True)
class Origin:
    """Where a document came from, and whether its row still gives its ids.

    file, line: from 1; a row of parquet. record: the row's members that are not its text. same: the
    row, tokenized again by the reference library, has the document's ids; None where it could not
    be tried, and `why` says why.
    """

    file: str
    line: int
    record: dict[str, Any] | None
    same: bool | None
    why: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "line": self.line,
            "record": self.record,
            "retokenized_equal": self.same,
            "why": self.why,
        }


def find_origins(
    index: IndexedDocuments,
    record_ids: RecordIds | None,
    documents: Sequence[int],
    tokenizer: Tokenizer | None,
) -> dict[int, Origin]:
    """By document; empty where the index has no lineage. Each source file is read once."""
    if record_ids is None:
        return {}
    by_file: dict[str, dict[int, int]] = defaultdict(dict)
    for document in documents:
        path, line = record_ids.place(document)
        by_file[path][line] = document
    sidecar = read_sidecar(index.prefix)
    recipe = Recipe(**sidecar["recipe"]) if sidecar else None
    origins: dict[int, Origin] = {}
    for path, wanted in by_file.items():
        try:
            rows = dict(_rows(Path(path), sorted(wanted)))
            missing = f"{path} has no such line any more"
        except (OSError, UserError) as error:
            rows, missing = {}, str(error)
        for line, document in wanted.items():
            if line not in rows:
                origins[document] = Origin(path, line, None, None, missing)
                continue
            record = _without_text(_row_as_object(rows[line]), recipe)
            same: bool | None = None
            why: str | None = "no tokenizer, or no sidecar beside the index"
            if recipe is not None and sidecar is not None and tokenizer is not None:
                same, why = _compare(
                    rows[line], recipe, tokenizer, sidecar["append_eod"], index.document(document)
                )
            origins[document] = Origin(path, line, record, same, why)
    return origins


def _rows(path: Path, lines: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(line, its bytes or a RecordBatch of one row) for ascending line numbers from 1."""
    waiting = list(reversed(lines))
    before = 0  # lines in front of the block
    for block in read_blocks(path):
        rows: Any = block.content  # a table of parquet rows is cut with slice()
        if isinstance(rows, LongLine):
            count = 1
        elif isinstance(rows, memoryview):
            rows = rows.tobytes().removesuffix(b"\n").split(b"\n")
            count = len(rows)
        else:
            count = rows.num_rows
        while waiting and waiting[-1] <= before + count:
            line = waiting.pop()
            if not isinstance(rows, LongLine):
                at = line - before - 1
                yield line, rows[at] if isinstance(rows, list) else rows.slice(at, 1)
        if not waiting:
            return
        before += count


def _row_as_object(row: Any) -> Any:
    if not isinstance(row, bytes):
        return row.to_pylist()[0]
    try:
        return json.loads(row)
    except ValueError:
        return None


def _without_text(row: Any, recipe: Recipe | None) -> dict[str, Any] | None:
    """The members of a row that say where it is from: method, seed, model, verdict and the like."""
    if not isinstance(row, dict):
        return None
    texts = set(recipe.keys if recipe else RECORD_KEYS) - SHOWN_BESIDE
    return {key: value for key, value in row.items() if key not in texts}


def _compare(
    row: Any, recipe: Recipe, tokenizer: Tokenizer, append_eod: bool, ids: np.ndarray
) -> tuple[bool | None, str | None]:
    texts = make_texts(scan_block(row, [recipe]), recipe, tokenizer)
    if len(texts.rows) != 1:
        why = texts.bad[0].reason if texts.bad else "its text is empty"
        return False, f"the line gives no document now: {why}"
    encoder = tokenizer.open_encoder("reference")
    again = encode_texts(texts, tokenizer, encoder, append_eod=append_eod)
    if np.array_equal(again.tokens, ids):
        return True, None
    return False, f"{len(again.tokens)} ids now, {len(ids)} in the index, not the same"
