"""The one record type of the house, and reading and writing files of records.

A record is either plain `text` or a `problem` with a `solution` (and maybe the final `answer`).
Reads JSONL (plain or .gz) and parquet, ours and two-field `input`/`output` rows.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open

PROBLEM_TEMPLATE = "Question: {problem}\nSolution: {solution}"
PROMPT_TEMPLATE = "Question: {problem}\nSolution:"


@dataclass(frozen=True)
class Record:
    """One document. `meta` keys are fixed in docs/formats.md; `id` is unique within a source."""

    id: str
    source: str
    text: str | None = None
    problem: str | None = None
    solution: str | None = None
    answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def render(self, template: str | None = None) -> str:
        """The training text: `text` itself, or problem and solution in `template`."""
        if self.text is not None:
            return self.text
        return (template or PROBLEM_TEMPLATE).format(problem=self.problem, solution=self.solution)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "source": self.source}
        for name in ("text", "problem", "solution", "answer"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        if self.meta:
            row["meta"] = self.meta
        return row


def record_from_row(row: Any, *, default_id: str, default_source: str, where: str) -> Record:
    """Build a record from a parsed row. Raises UserError naming `where` (file and line)."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}")
    if row.get("input") is not None and row.get("output") is not None:
        row = {"problem": row["input"], "solution": row["output"]} | {
            key: row[key] for key in ("id", "source", "answer", "meta") if key in row
        }
    texts = {name: row.get(name) for name in ("text", "problem", "solution", "answer")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: '{name}' must be a string, found {value!r:.80}")
    if texts["text"] is None and (texts["problem"] is None or texts["solution"] is None):
        raise UserError(
            f"{where}: a record needs 'text', or 'problem' and 'solution' (or 'input' and "
            f"'output'); found the keys {sorted(row)}"
        )
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise UserError(f"{where}: 'meta' must be an object, found {meta!r:.80}")
    identity = str(row.get("id", default_id))
    return Record(id=identity, source=str(row.get("source", default_source)), meta=meta, **texts)


def read_records(path: Path | str, *, source: str | None = None) -> Iterator[Record]:
    """Every record of a .jsonl, .jsonl.gz or .parquet file, in order.

    Raises UserError, naming file and line, at the first row that is not a record.
    """
    path = Path(path)
    for number, row in enumerate_rows(path):
        yield record_from_row(
            row,
            default_id=f"{path.name}:{number}",
            default_source=source or path.name.split(".")[0],
            where=f"{path}, line {number}",
        )


def enumerate_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed row) of a JSONL or parquet file; UserError at a bad one."""
    if not path.is_file():
        raise UserError(f"the file {path} does not exist")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, parse_line(line, path, number)


def parse_line(line: bytes, path: Path, number: int) -> Any:
    """One line of JSON. Raises UserError naming file and line."""
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or more than Python takes
        raise UserError(
            f"{path}, line {number}: not a line of JSON ({error}); found {line[:60]!r}"
        ) from None


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSONL, atomically; returns how many."""
    count = 0
    with atomic_open(path) as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
            count += 1
    return count
