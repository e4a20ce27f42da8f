"""Look at the written files again: is what they promise true of them?

Works from problems.jsonl and heldout.jsonl alone, with nothing remembered from generation.
"""

from pathlib import Path
from typing import Any

from megatron_math.base.records import read_records
from megatron_math.synthesize.exact import numbers_in
from megatron_math.synthesize.generate import normal_form
from megatron_math.synthesize.operands import Pair, pairs_in, pairs_of


class BrokenPromiseError(RuntimeError):
    """The written files are not what this room promises; a fault of the program."""


def check_files(problems: Path, heldout: Path) -> dict[str, Any]:
    """Facts for stats.json. Raises BrokenPromiseError at the first held-out problem that fails.

    * no held-out text is a training text (case, spacing and stops aside);
    * operands_seen false: some pair of numbers in the text (at level 1 there is one pair) never
      meets in any training problem, in whatever order or operation;
    * operands_seen true: every pair of numbers in the text meets in training.
    """
    texts: set[str] = set()
    met: set[Pair] = set()
    for record in read_records(problems):
        assert record.problem is not None
        assert record.solution is not None
        texts.add(normal_form(record.problem))
        met |= pairs_in(record.problem, record.solution)
    counts = {"texts_in_training": 0, "operands_seen": 0, "operands_unseen": 0}
    for record in read_records(heldout):
        assert record.problem is not None
        if normal_form(record.problem) in texts:
            raise BrokenPromiseError(f"{record.id} is a training text: {record.problem}")
        pairs = pairs_of(numbers_in(record.problem))
        seen = record.meta["operands_seen"]
        if seen != (pairs <= met):
            raise BrokenPromiseError(
                f"{record.id} says operands_seen {seen}, but of its pairs {sorted(pairs)} training "
                f"has {sorted(pairs & met)}: {record.problem}"
            )
        counts["operands_seen" if seen else "operands_unseen"] += 1
    return counts | {"pairs_in_training": len(met)}
