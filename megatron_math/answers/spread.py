"""How much a score depends on the rules: the same outputs, read and compared in several ways.

Published numbers for one model differ by points with the grader; a score without its spread says
less than it seems to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import Rule, extract_answer
from megatron_math.answers.rules import JIUZHANG3, OURS, Rules

# name -> which rules find the answer, which compare it.
WAYS: dict[str, tuple[tuple[Rule, ...], Rules]] = {
    "boxed": (("boxed",), OURS),
    "boxed, stated": (("boxed", "stated"), OURS),
    "boxed, stated, last number": (("boxed", "stated", "last number"), OURS),
    "last number": (("last number",), OURS),
    "jiuzhang3": (("minerva", "boxed", "stated", "last number"), JIUZHANG3),
}
CHOICE_WAYS: dict[str, tuple[tuple[Rule, ...], Rules]] = {
    "boxed": (("boxed",), OURS),
    "choice": (("choice",), OURS),
    "boxed, choice": (("boxed", "choice"), OURS),
    "boxed, choice, last letter": (("boxed", "choice", "last letter"), OURS),
    "last letter": (("last letter",), OURS),
}


@dataclass(frozen=True)
class Reading:
    """The score under one way: `found` outputs gave an answer, `correct` were right."""

    way: str
    found: int
    correct: int
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"accuracy": self.correct / self.n}


def spread(
    outputs: Sequence[str],
    references: Sequence[str],
    ways: Mapping[str, tuple[Sequence[Rule], Rules]] = WAYS,
    workers: int = 1,
) -> list[Reading]:
    """The score of the same outputs under every way; each pair of texts is compared once."""
    readings = []
    for way, (finders, rules) in ways.items():
        answers = [extract_answer(text, finders).answer for text in outputs]
        pairs = list(dict.fromkeys(zip(answers, references, strict=True)))
        verdicts = dict(zip(pairs, equal_many(pairs, workers=workers, rules=rules), strict=True))
        correct = sum(verdicts[p].correct for p in zip(answers, references, strict=True))
        found = sum(answer is not None for answer in answers)
        readings.append(Reading(way, found, correct, len(outputs)))
    return readings
