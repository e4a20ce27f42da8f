"""Read what a method begins with: rows of almost any shape, as seeds."""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_math.answers.extract import extract_answer
from megatron_math.answers.solution_steps import count_steps
from megatron_math.base.errors import UserError
from megatron_math.base.records import enumerate_rows
from megatron_math.synthesize.method_config import SeedsConfig
from megatron_math.synthesize.work import Seed

PROBLEM_KEYS = ("problem", "question", "input")
SOLUTION_KEYS = ("solution", "output")


class Seeds:
    """The seeds of files, in their order. passed_over: rows that made none, by reason.

    A seed's id is the row's, or `<file name>:<line>`. Raises UserError, naming file and line, for
    a row without a problem and for a key that no row has.
    """

    def __init__(self, config: SeedsConfig, paths: list[Path]) -> None:
        self._config = config
        self._paths = paths
        self._remove = [re.compile(expression) for expression in config.remove]
        self.passed_over: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Seed]:
        self.passed_over.clear()
        for seed in self._all():
            if seed.solution is not None and self._config.min_steps > count_steps(seed.solution):
                self.passed_over["too few counted steps"] += 1
            else:
                yield seed

    def count_rows(self) -> int:
        """Rows that there are, those that will be passed over included; each is looked at."""
        count = sum(1 for _ in self._all())
        if not count:
            raise UserError(f"synthesize.seeds: {', '.join(map(str, self._paths))} holds no row")
        return count

    def _rows(self) -> Iterator[tuple[Path, int, Any]]:
        number = 0
        for path in self._paths:
            for line, row in enumerate_rows(path):
                if number == self._config.limit:
                    return
                number += 1
                yield path, line, row

    def _all(self) -> Iterator[Seed]:
        for path, line, row in self._rows():
            where = f"{path}, line {line}"
            if not isinstance(row, dict):
                raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}")
            yield self._seed(row, f"{path.name}:{line}", where)

    def _seed(self, row: Mapping[str, Any], default_id: str, where: str) -> Seed:
        config = self._config
        problem = _text(row, config.problem, PROBLEM_KEYS, "problem", where)
        if problem is None or not problem.strip():
            raise UserError(f"{where}: no problem under {PROBLEM_KEYS}; give seeds.problem")
        solution_key = config.solution
        solution = _text(row, solution_key, SOLUTION_KEYS, "solution", where)
        answer = None
        if config.answer is not None or solution_key != "answer":
            answer = _text(row, config.answer, ("answer",), "answer", where)
        if answer is None and solution:
            answer = extract_answer(solution).answer
        attempts = tuple(
            (key, self._cleaned(attempt))
            for key in config.attempts
            if (attempt := _text(row, key, (), "attempts", where)) is not None
        )
        return Seed(
            str(row.get("id", default_id)),
            problem.strip(),
            self._cleaned(solution) if solution is not None else None,
            answer,
            attempts,
        )

    def _cleaned(self, text: str) -> str:
        for expression in self._remove:
            text = expression.sub("", text)
        return text.strip()


def find_paths(path: str, place: str = "seeds") -> list[Path]:
    """The files of a path or a glob pattern, sorted. Raises UserError when there is none."""
    found = [Path(path)] if Path(path).is_file() else sorted(map(Path, glob.glob(path)))
    if not found:
        raise UserError(f"synthesize: no file at {path} ({place}.path)")
    return found


def _text(
    row: Mapping[str, Any], key: str | None, usual: tuple[str, ...], name: str, where: str
) -> str | None:
    """The text under `key`, which may be a path, or under the first usual name that is there."""
    for candidate in usual if key is None else (key,):
        value: Any = row
        for part in [candidate] if candidate in row else candidate.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: '{candidate}' must be a text, found {value!r:.80}")
        if value is not None:
            return value
    if key is not None:
        raise UserError(
            f"{where}: seeds.{name} is '{key}', and the row has no such key; it has {sorted(row)}"
        )
    return None
