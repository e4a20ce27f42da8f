"""Solved examples for the prompt of tool items: problems that Python solves, with boxed answers."""

import re
from pathlib import Path

from megatron_math.answers.extract import extract_answer
from megatron_math.base.errors import UserError
from megatron_math.base.records import read_records
from megatron_math.synthesize.work import share_of

CODE = re.compile(r"```python[ \t]*\n(.*?)\n```", re.DOTALL)
_DOCSTRING = re.compile(r'^[ \t]*[rR]?("""|\'\'\').*?\1[ \t]*(?:\n|\Z)', re.DOTALL | re.MULTILINE)


class SolvedExamples:
    """Those of files whose solutions hold code and a boxed answer; they are all in memory."""

    def __init__(self, paths: list[Path]) -> None:
        self._examples = [example for path in paths for example in _examples(path)]
        if paths and not self._examples:
            raise UserError(
                f"synthesize.examples: no solution in {', '.join(map(str, paths))} holds a "
                "```python block and a boxed answer"
            )

    def draw(self, road_seed: int, item: str) -> tuple[str, str]:
        """The one for an item, whatever other items there are."""
        number = int(share_of(road_seed, "example", item) * len(self._examples))
        return self._examples[number]


def _examples(path: Path) -> list[tuple[str, str]]:
    found = []
    for record in read_records(path):
        if record.problem is None or record.solution is None:
            raise UserError(f"{path}: {record.id} is a text; an example is a problem and solution")
        is_boxed = extract_answer(record.solution, rules=("boxed",)).answer is not None
        if is_boxed and CODE.search(record.solution):
            found.append((record.problem.strip(), without_docstrings(record.solution).strip()))
    return found


def without_docstrings(solution: str) -> str:
    """`solution` without texts in triple quotes that stand alone in its code."""
    return CODE.sub(
        lambda match: f"```python\n{_DOCSTRING.sub('', match[1] + chr(10)).rstrip()}\n```", solution
    )
