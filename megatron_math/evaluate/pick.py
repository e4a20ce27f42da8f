"""Several answers to one question: which one counts, and what more of them would be worth."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_math.answers.equal import equal_many
from megatron_math.answers.rules import OURS, Rules
from megatron_math.base.statistics import estimate

Sample = Mapping[str, Any]


def classes(
    answers: Sequence[Sequence[str | None]], *, workers: int = 1, rules: Rules = OURS
) -> list[list[int | None]]:
    """For every question the class of each answer: equal answers share a number, None has none.

    Classes are numbered as they appear. Each is stood for by its first answer.
    """
    found: list[list[int | None]] = [[None] * len(row) for row in answers]
    number = 0
    while True:
        firsts = {}  # of each question with answers left, the one that others are held against
        for place, row in enumerate(answers):
            left = (a for a, known in zip(row, found[place], strict=True) if known is None)
            first = next((answer for answer in left if answer is not None), None)
            if first is not None:
                firsts[place] = first
        if not firsts:
            return found
        pairs = list(
            dict.fromkeys(
                (answer, firsts[place])
                for place in firsts
                for answer, known in zip(answers[place], found[place], strict=True)
                if known is None and answer is not None
            )
        )
        verdicts = dict(zip(pairs, equal_many(pairs, workers=workers, rules=rules), strict=True))
        for place, first in firsts.items():
            for i, answer in enumerate(answers[place]):
                if found[place][i] is not None or answer is None:
                    continue
                # An answer that cannot be read equals itself, or the rounds would not end.
                if answer == first or verdicts[answer, first].correct:
                    found[place][i] = number
        number += 1


def majority(numbers: Sequence[int | None]) -> int:
    """The place of the first answer of the largest class; of equal ones the earlier. 0 of none."""
    votes = Counter(number for number in numbers if number is not None)
    if not votes:
        return 0
    winner = max(votes, key=lambda number: (votes[number], -number))
    return list(numbers).index(winner)


def best(values: Sequence[float]) -> int:
    """The place of the highest value; of equal ones the earlier."""
    return max(range(len(values)), key=lambda place: (values[place], -place))


def pick(samples: Sequence[Sample], how: str) -> int:
    """The place of the sample that counts. Raises KeyError where its value was not asked for."""
    by: dict[str, Callable[[], int]] = {
        "majority": lambda: majority([sample["class"] for sample in samples]),
        "first": lambda: 0,
        "likelihood": lambda: best([_value(sample["mean_logprob"]) for sample in samples]),
        "reward": lambda: best([_value(sample["reward"]) for sample in samples]),
    }
    return by[how]()


def _value(value: float | None) -> float:
    return -math.inf if value is None else value


def pass_at(n: int, correct: int, k: int) -> float:
    """The chance that one of k answers is right, from n of which so many are (Chen et al. 2021)."""
    assert 0 <= correct <= n >= k > 0, (n, correct, k)
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority_at(samples: Sequence[Sample], k: int) -> float:
    """How often the vote of k answers is right: mean over the groups of k, one behind the other."""
    groups = [samples[start : start + k] for start in range(0, len(samples) - k + 1, k)]
    winners = [group[majority([sample["class"] for sample in group])] for group in groups]
    return sum(bool(winner["correct"]) for winner in winners) / len(winners)


def of_samples(rows: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """The mean over all samples, and pass@k and maj@k for 1, 2, 4, ... and all, with intervals."""
    n = min(len(samples) for samples in rows)
    sizes = sorted({n, *(1 << power for power in range(n.bit_length()) if 1 << power <= n)})
    right = [[bool(sample["correct"]) for sample in samples[:n]] for samples in rows]
    return {
        "n": n,
        "mean": _with_interval([sum(own) / n for own in right]),
        "pass": {str(k): _with_interval([pass_at(n, sum(own), k) for own in right]) for k in sizes},
        "majority": {
            str(k): _with_interval([majority_at(samples[:n], k) for samples in rows]) for k in sizes
        },
    }


def _with_interval(values: Sequence[float]) -> dict[str, Any]:
    """A mean over items, and the 95 % of means when items are drawn again."""
    found = estimate([list(values)], resamples=2000)
    return {"value": found.mean, "bootstrap95": list(found.bootstrap)}
