"""predictions.jsonl: appended block by block, readable after any kill.

A block is a fixed run of rows, written at once and synced. Whatever a kill leaves behind
the last whole block is cut off, so the file grows as if it had never been interrupted, and rows
share their batches with the same neighbours as in an unbroken run.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError

KEYS = (
    "id", "benchmark", "prompt", "reference", "output", "finish", "extracted", "correct", "meta",
)  # fmt: skip


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Every row. Raises UserError, naming file and line, for a row that is not a prediction."""
    if not path.is_file():
        raise UserError(
            f"there is no predictions file {path}; give the path of a predictions.jsonl"
        )
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        row = _parse(line)
        if row is None:
            raise UserError(
                f"{path}, line {number}: not a prediction with the keys {', '.join(KEYS)}; "
                f"found {line[:60]!r}"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty; evaluate first")
    return rows


def append_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a block of rows at the end, and wait until the disk has it."""
    block = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    with open(path, "ab") as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def keep_whole_blocks(path: Path, expected: Sequence[tuple[str, str]], block_rows: int) -> int:
    """Cut `path` back to its whole blocks that answer `expected` (id, prompt); rows kept."""
    if not path.is_file():
        return 0
    kept_rows = kept_bytes = num_bytes = 0
    with open(path, "rb") as file:
        for number, ((identity, prompt), line) in enumerate(zip(expected, file, strict=False), 1):
            row = _parse(line) if line.endswith(b"\n") else None
            if row is None or row["id"] != identity or row["prompt"] != prompt:
                break
            num_bytes += len(line)
            if number % block_rows == 0 or number == len(expected):
                kept_rows, kept_bytes = number, num_bytes
    os.truncate(path, kept_bytes)
    return kept_rows


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(key in row for key in KEYS) else None
