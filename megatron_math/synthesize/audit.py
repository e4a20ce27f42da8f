"""How good are the checks? Plant errors in solutions that are right, and count who is refused.

Two kinds of error: the answer alone is another one; or one computed result is, and every later
place that has this number goes on with the wrong one.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from megatron_math.answers.extract import extract_answer
from megatron_math.synthesize.method_config import SeededConfig
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import (
    Candidate,
    Outcome,
    Seed,
    Work,
    draw_seed,
    side_by_side,
)

KINDS = ("intact", "answer", "result")
_RESULT = re.compile(r"=\s*[$€£]?\s*(\d+(?:\.\d+)?)(?![\d.,]*\s*[-+*/^=(\d])")


def plant(solution: str, answer: str, kind: str, draws: random.Random) -> tuple[str, str] | None:
    """`solution` and `answer` with an error of a kind; None where it has no place for one."""
    if kind == "intact":
        return solution, answer
    if not re.fullmatch(r"-?\d+(?:\.\d+)?", answer.strip()):
        return None
    if kind == "answer":
        place = solution.rfind(answer)
        wrong = _other(answer, draws)
        if place < 0:
            return None
        return solution[:place] + wrong + solution[place + len(answer) :], wrong
    results = list(_RESULT.finditer(solution))
    if not results:
        return None
    chosen = draws.choice(results)
    right, wrong = chosen[1], _other(chosen[1], draws)
    number = re.compile(rf"(?<![\d.]){re.escape(right)}(?![\d]|\.\d)")
    begin = chosen.start(1)
    planted = solution[:begin] + number.sub(wrong, solution[begin:])
    return planted, extract_answer(planted).answer or wrong


def _other(number: str, draws: random.Random) -> str:
    """Another number with as many decimals."""
    whole, point, decimals = number.partition(".")
    changed = int(whole) + draws.choice([-2, -1, 1, 2, 9, 10])
    return f"{changed}{point}{decimals}"


class Audit:
    """Counts for the first `config.audit` seeds that have a solution with an answer.

    Candidates of query expansion have no reference answer, so here they get none either.
    """

    def __init__(self, config: SeededConfig, checks: Checks, road_seed: int) -> None:
        self._size = config.audit
        self._rule = config.accept
        self._checks = checks
        self._road_seed = road_seed
        self._with_reference = config.method != "expansion"
        self._rows: list[tuple[str, Candidate]] = []

    def works(self, seeds: Iterable[Seed]) -> Iterator[Work]:
        """One item a seed: its solution as it is, and with an error of each kind."""
        usable = (seed for seed in seeds if seed.solution and seed.answer)
        for seed in islice(usable, self._size):
            yield self._work(seed)

    def _work(self, seed: Seed) -> Work:
        assert seed.solution is not None
        assert seed.answer is not None
        reference = seed.answer if self._with_reference else None
        begun = Candidate(seed.problem, seed.solution, seed.answer)
        rows = []
        for kind in KINDS:
            draws = random.Random(draw_seed(self._road_seed, seed.id, kind))
            planted = plant(seed.solution, seed.answer, kind, draws)
            if planted is not None:
                rows.append((kind, replace(begun, solution=planted[0], answer=planted[1],
                                           verdicts={}, meta={})))  # fmt: skip
        yield from side_by_side(
            [self._checks.work(row, reference, f"audit/{seed.id}/{kind}") for kind, row in rows]
        )
        self._rows += rows
        return Outcome()

    def counts(self) -> dict[str, Any]:
        """By kind: how many, how many the rule refused, and how many each verdict was against."""
        found: dict[str, Any] = {}
        for kind in KINDS:
            rows = [candidate for name, candidate in self._rows if name == kind]
            against = [self._rule.against(candidate.verdicts) for candidate in rows]
            names = sorted({name for candidate in rows for name in candidate.verdicts})
            found[kind] = {
                "checked": len(rows),
                "refused": sum(map(bool, against)),
                "false": {
                    name: number
                    for name in names
                    if (number := sum(c.verdicts[name] is False for c in rows))
                },
            }
        planted = [found[kind] for kind in KINDS[1:]]
        found["rejection_rate"] = _rate(planted)
        found["false_rejection_rate"] = _rate([found["intact"]])
        return found


def _rate(groups: list[dict[str, Any]]) -> float | None:
    checked = sum(group["checked"] for group in groups)
    refused = sum(group["refused"] for group in groups)
    return round(refused / checked, 4) if checked else None
