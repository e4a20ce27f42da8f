"""left_out.jsonl: the steps of a run that were not taken, and why. Rank 0 writes, all ranks know.

A step that is left out keeps its number, its learning rate and its samples: nothing else moves, so
a run that is given the same file takes the same steps from the first to the last.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "left_out.jsonl"


class LeftOut:
    """The records of left_out.jsonl, and the steps in them, counted from 0."""

    def __init__(self, folder: Path, records: Iterable[Mapping[str, Any]], *, writes: bool) -> None:
        """writes: whether this process keeps the file."""
        self._path = folder / FILE
        self._writes = writes
        self.records = [dict(record) for record in records]

    @property
    def steps(self) -> set[int]:
        return {step for record in self.records for step in record["steps"]}

    def refused_up_to(self, step: int) -> list[int]:
        """The steps in a row right before `step` that were refused, and not by a roll-back."""
        alone = {
            record["steps"][0] for record in self.records if record["rolled_back_to"] is None
        } - {s for r in self.records if r["rolled_back_to"] is not None for s in r["steps"]}
        first = step
        while first - 1 in alone:
            first -= 1
        return list(range(first, step))

    def add(
        self,
        steps: Iterable[int],
        samples: Iterable[tuple[str, int, int]],
        why: str,
        rolled_back_to: int | None = None,
    ) -> None:
        """samples: stage, first and last of each step. The file is on disk after it."""
        record = {
            "steps": list(steps),
            "samples": list(samples),
            "rolled_back_to": rolled_back_to,
            "why": why,
        }
        self.records.append(record)
        if self._writes:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_left_out(folder: Path) -> list[dict[str, Any]]:
    """The records in a run's folder; a line that a kill cut short was never acted upon."""
    path = folder / FILE
    if not path.is_file():
        return []
    whole, _, cut = path.read_bytes().rpartition(b"\n")
    if cut:
        os.truncate(path, len(whole) + (1 if whole else 0))
    return [json.loads(line) for line in whole.splitlines()]
