"""predictions.jsonl: one object a row of the benchmark, in its order.

With several samples a row holds all of them under `samples`; `picked` says which one its own
output, answer and verdict are.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open

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


def write_predictions(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """All rows at once: the file is whole, or not there."""
    with atomic_open(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def samples_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples of a row; the row itself where it has one."""
    return row.get("samples") or [row]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(key in row for key in KEYS) else None
