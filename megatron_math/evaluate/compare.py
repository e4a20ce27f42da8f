"""Two models on the same problems: the difference of their scores, and how sure it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.proportions import mcnemar_p
from megatron_math.base.statistics import estimate
from megatron_math.evaluate.predictions import read_predictions


def compare(first: Path | str, second: Path | str) -> dict[str, Any]:
    """What the second predictions file gained over the first, problem by problem.

    difference: of the shares of right answers. interval95: by Student's t over problems.
    bootstrap95: of problems that are drawn again. p: McNemar's exact test, two-sided, which asks
    whether problems that only one of them solved are shared out by a fair coin. Raises UserError
    for files of different problems.
    """
    ours, theirs = read_predictions(Path(first)), read_predictions(Path(second))
    keys = [[(row["benchmark"], row["id"], row["reference"]) for row in r] for r in (ours, theirs)]
    if sorted(keys[0]) != sorted(keys[1]) or len(set(keys[0])) != len(keys[0]):
        missing = len(set(keys[0]) ^ set(keys[1]))
        raise UserError(
            f"{first} and {second} were asked different problems ({missing} stand in one of them "
            f"only); ask both models the same rows of one benchmark"
        )
    after = {key: bool(row["correct"]) for key, row in zip(keys[1], theirs, strict=True)}
    pairs = [(bool(row["correct"]), after[key]) for key, row in zip(keys[0], ours, strict=True)]
    gains = [float(b) - float(a) for a, b in pairs]
    found = estimate([gains])
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    return {
        "n": len(pairs),
        "first": sum(a for a, _ in pairs) / len(pairs),
        "second": sum(b for _, b in pairs) / len(pairs),
        "difference": found.mean,
        "interval95": [found.low, found.high],
        "bootstrap95": list(found.bootstrap),
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar_p(only_first, only_second),
    }


def in_words(found: dict[str, Any], names: Sequence[str] = ("first", "second")) -> str:
    """One line for people."""
    low, high = found["interval95"]
    return (
        f"{names[0]} {found['first']:.1%}, {names[1]} {found['second']:.1%}: "
        f"{100 * found['difference']:+.1f} points (95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, of {found['n']} problems), p = {found['p']:.3g}; right only in "
        f"{names[0]}: {found['only_first']}, only in {names[1]}: {found['only_second']}"
    )
