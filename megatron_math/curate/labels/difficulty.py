"""How hard a problem is: by the steps of its solution, or by how often a model solves it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_math.answers.solution_steps import count_steps
from megatron_math.base.errors import UserError
from megatron_math.base.records import Record, enumerate_rows
from megatron_math.curate.labels.config import Difficulty, DifficultyConfig


class DifficultyRule:
    """Says of each problem easy, medium or hard, and by which number. `predictions` are read."""

    def __init__(self, config: DifficultyConfig) -> None:
        self._config = config
        self._solved = None if config.predictions is None else read_solved(config.predictions)

    def judge(self, records: Sequence[Record]) -> list[tuple[Difficulty | None, dict[str, Any]]]:
        """The label, None where nothing is known, and what it was read from, for `meta`."""
        of_one = self._by_steps if self._config.by == "steps" else self._by_success
        return [of_one(record) for record in records]

    def _by_steps(self, record: Record) -> tuple[Difficulty | None, dict[str, Any]]:
        steps = record.meta.get("steps")
        if not isinstance(steps, int) or isinstance(steps, bool):
            if record.solution is None:
                return None, {}
            steps = count_steps(record.solution)
        medium_from, hard_from = self._config.steps
        label: Difficulty = (
            "easy" if steps < medium_from else "medium" if steps < hard_from else "hard"
        )
        return label, {"steps": steps}

    def _by_success(self, record: Record) -> tuple[Difficulty | None, dict[str, Any]]:
        known = record.meta.get("right_of") if self._solved is None else self._solved.get(record.id)
        if (
            not isinstance(known, list | tuple)
            or len(known) != 2
            or not all(isinstance(n, int) for n in known)
            or not known[1]
        ):
            return None, {}
        rate = known[0] / known[1]
        easy_from, hard_below = self._config.rates
        label: Difficulty = (
            "easy" if rate >= easy_from else "hard" if rate < hard_below else "medium"
        )
        return label, {"success": round(rate, 4)}


def read_solved(paths: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """id -> (right answers, answers) over all files. UserError for a row that is no prediction."""
    solved: dict[str, tuple[int, int]] = {}
    for path in paths:
        for number, row in enumerate_rows(path):
            if not isinstance(row, dict) or "id" not in row or "correct" not in row:
                raise UserError(
                    f"{path}, line {number}: a prediction with 'id' and 'correct' is expected; "
                    f"found {row!r:.80}"
                )
            right, tries = solved.get(str(row["id"]), (0, 0))
            solved[str(row["id"])] = right + bool(row["correct"]), tries + 1
    return solved
