"""Are two answers equal? Cheap exact rules first, math-verify in a killable process last.

Order: same text; exact numbers with units, percent and thousands separators; unordered lists of
numbers; then math-verify with a deadline. A pair that runs out of time counts as wrong and its
verdict says so.
"""

import atexit
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from megatron_math.answers.quantity import Quantity, parse_quantities, parse_quantity, tidy
from megatron_math.sandbox.pool import Pool

How = Literal[
    "no answer", "text", "number", "numbers", "math-verify", "too long", "timeout", "error", "died"
]
LIMIT_SECONDS = 5.0
# The longest of MATH-500's answers has 53 characters; SymPy on long babble costs minutes.
MAX_CHARACTERS = 1000
_WORDS = {"yes", "no", "odd", "even", "true", "false"}


@dataclass(frozen=True)
class Verdict:
    """`how` names the rule that decided, or what kept math-verify from deciding."""

    correct: bool
    how: How


def equal(answer: str | None, reference: str, *, limit_seconds: float = LIMIT_SECONDS) -> Verdict:
    """Is `answer` equal to `reference`? One pair; see `equal_many` for more."""
    return equal_many([(answer, reference)], limit_seconds=limit_seconds)[0]


def equal_many(
    pairs: Iterable[tuple[str | None, str]],
    *,
    workers: int = 1,
    limit_seconds: float = LIMIT_SECONDS,
) -> list[Verdict]:
    """A verdict for every (answer, reference), in order. Never raises for what a pair holds."""
    pairs = list(pairs)
    verdicts = [equal_without_algebra(answer, reference) for answer, reference in pairs]
    open_places = [place for place, verdict in enumerate(verdicts) if verdict is None]
    if open_places:
        outcomes = _pool(workers, limit_seconds).map(list(pairs[place]) for place in open_places)
        for place, outcome in zip(open_places, outcomes, strict=True):
            done = outcome.state == "done"
            how: How = "math-verify" if outcome.state == "done" else outcome.state
            verdicts[place] = Verdict(done and outcome.value is True, how)
    return [verdict for verdict in verdicts if verdict is not None]


def equal_without_algebra(answer: str | None, reference: str) -> Verdict | None:
    """The verdict of the exact rules, or None when only algebra can tell."""
    if answer is None or not answer.strip():
        return Verdict(False, "no answer")
    if answer.strip() == reference.strip():
        return Verdict(True, "text")
    if len(answer) > MAX_CHARACTERS or len(reference) > MAX_CHARACTERS:
        return Verdict(False, "too long")
    if _plain(answer) == _plain(reference):
        return Verdict(True, "text")
    if _is_words(reference):  # math-verify would read Evelyn as a product of variables
        return Verdict(_plain(answer).casefold() == _plain(reference).casefold(), "text")
    first, second = parse_quantity(answer), parse_quantity(reference)
    if first and second:
        correct = first.equals(second)
        return None if not correct and _rounded(first, second) else Verdict(correct, "number")
    many, expected = parse_quantities(answer), parse_quantities(reference)
    if many and expected:
        return Verdict(_values(many) == _values(expected), "numbers")
    return None


def _plain(text: str) -> str:
    text = re.sub(r"(?<!\w) | (?!\w)", "", tidy(text))  # "1 1/2" must not become 11/2
    choice = re.fullmatch(r"\(([A-Z])\)|([A-Z])\)", text)
    return (choice[1] or choice[2]) if choice else text


def _is_words(reference: str) -> bool:
    text = tidy(reference)
    if not re.fullmatch(r"[A-Za-z']{2,}(?:[ -][A-Za-z']{2,})*", text):
        return False
    return text.casefold() in _WORDS or len(text) > 3 or "\\text" in reference


def _rounded(first: Quantity, second: Quantity) -> bool:
    """A decimal against a fraction that has no finite decimal form: rounding may be meant."""
    return any(
        one.is_decimal and not other.is_decimal and not _is_finite(other.value)
        for one, other in ((first, second), (second, first))
    )


def _is_finite(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _values(quantities: list[Quantity]) -> list[Fraction]:
    return sorted(quantity.value * quantity.size for quantity in quantities)


@functools.cache
def _pool(workers: int, limit_seconds: float) -> Pool:
    """One warm pool a process for each setting; ended with the process."""
    pool = Pool("megatron_math.answers.judge:judge", workers=workers, limit_seconds=limit_seconds)
    atexit.register(pool.close)
    return pool
