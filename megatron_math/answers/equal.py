"""Are two answers equal? Cheap exact rules first; algebra in a killable process; math-verify last.

Order: same text; a choice; words; exact numbers with units, percent and thousands separators;
lists of numbers. All of these take linear time and evaluate nothing, so they run here. What they
leave open goes to a warm worker with a deadline and a limit of memory: our own algebra, then
math-verify for what that cannot read. A pair that runs out of time counts as wrong and its verdict
says so.
"""

import atexit
import functools
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from megatron_math.answers.quantity import Quantity, parse_quantities, parse_quantity
from megatron_math.answers.rules import OURS, Rules
from megatron_math.answers.steps import name_of, tidy
from megatron_math.sandbox.pool import Outcome, Pool

How = Literal[
    "no answer", "text", "choice", "words", "number", "numbers", "algebra", "math-verify",
    "unreadable", "too long", "timeout", "error", "died",
]  # fmt: skip
Pair = tuple[str | None, str]
Item = list[Any]
LIMIT_SECONDS = 1.5
MEMORY_BYTES = 512 << 20
# Many pairs are sent in chunks, or most of the time goes into waking processes. A pair in a bad
# chunk waits this long for its own turn: with LIMIT_SECONDS less than 2 s.
CHUNK = 16
CHUNK_SECONDS = 0.35
LEAST_FOR_CHUNKS = 64
# The longest of MATH-500's answers has 53 characters; SymPy on long babble costs minutes.
MAX_CHARACTERS = 1000
# A decimal with so many places may stand for the fraction that it rounds.
ROUNDED_PLACES = 6
TOLERANCE = Fraction(1, 10_000)
_WORDS = {"yes", "no", "odd", "even", "true", "false", "none"}
_LETTER = re.compile(
    r"(?:(?i:option|choice|answer)\s+|选项?\s*)?(?:\(([A-Ja-j])\)(?:\s.*)?|([A-Ja-j])[.:),]?|([A-J])[).:]\s*\S.*)",
    re.DOTALL,
)
_LETTERS = re.compile(r"\(?[A-J]\)?(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*)\(?[A-J]\)?)+")
_CLOCK = re.compile(
    r"(\d{1,2})(?::(\d{2})\s*(?:([ap])\.?\s?m\.?)?|\s*([ap])\.?\s?m\.?)", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """`how` names the rule that decided, or what kept the workers from deciding.

    second: what math-verify says of the same pair, where it was asked and came to an end.
    """

    correct: bool
    how: How
    second: bool | None = None

    @property
    def is_disputed(self) -> bool:
        return self.second is not None and self.second != self.correct


def equal(
    answer: str | None,
    reference: str,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    rules: Rules = OURS,
) -> Verdict:
    """Is `answer` equal to `reference`? One pair; see `equal_many` for more."""
    return equal_many([(answer, reference)], limit_seconds=limit_seconds, rules=rules)[0]


def equal_many(
    pairs: Iterable[Pair],
    *,
    workers: int = 1,
    limit_seconds: float = LIMIT_SECONDS,
    rules: Rules = OURS,
    second_opinion: bool = False,
    all_killable: bool = False,
) -> list[Verdict]:
    """A verdict for every (answer, reference), in order. Never raises for what a pair holds.

    second_opinion: ask math-verify about every pair too, in workers of its own; its opinion does
    not change a verdict and stands in `Verdict.second`. all_killable: let the workers apply the
    exact rules, too, which are linear in the text and are otherwise applied here.
    """
    pairs = list(pairs)
    if not second_opinion:
        return _judge(pairs, workers, limit_seconds, rules, all_killable)
    with ThreadPoolExecutor(2) as threads:
        ours = threads.submit(_judge, pairs, workers, limit_seconds, rules, all_killable)
        theirs = threads.submit(second_opinions, pairs, workers, limit_seconds)
        return [
            replace(verdict, second=second)
            for verdict, second in zip(ours.result(), theirs.result(), strict=True)
        ]


def _judge(
    pairs: list[Pair], workers: int, limit_seconds: float, rules: Rules, all_killable: bool
) -> list[Verdict]:
    verdicts: list[Verdict | None] = [
        None if all_killable and answer else equal_without_algebra(answer, reference, rules)
        for answer, reference in pairs
    ]
    open_places = [place for place, verdict in enumerate(verdicts) if verdict is None]
    named = [] if rules == OURS else [sorted(rules.steps), sorted(rules.checks)]
    items = [[*pairs[place], *named] for place in open_places]
    found = _ask("judge_whole" if all_killable else "judge", items, workers, limit_seconds)
    for place, verdict in zip(open_places, found, strict=True):
        verdicts[place] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def _ask(function: str, items: list[Item], workers: int, limit_seconds: float) -> list[Verdict]:
    """The workers' verdicts; many pairs go in chunks, those of a chunk that fails one by one."""
    verdicts: list[Verdict | None] = [None] * len(items)
    if len(items) >= LEAST_FOR_CHUNKS:
        chunks = [range(len(items))[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        pool = _pool(f"{function}_chunk", workers, min(CHUNK_SECONDS, limit_seconds))
        outcomes = pool.map([items[place] for place in chunk] for chunk in chunks)
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            if outcome.state == "done":
                for place, (correct, how) in zip(chunk, outcome.value, strict=True):
                    verdicts[place] = Verdict(correct, how)
    left = [place for place, verdict in enumerate(verdicts) if verdict is None]
    if left:
        outcomes = _pool(function, workers, limit_seconds).map(items[place] for place in left)
        for place, outcome in zip(left, outcomes, strict=True):
            verdicts[place] = _verdict_of(outcome)
    return [verdict for verdict in verdicts if verdict is not None]


def _verdict_of(outcome: Outcome) -> Verdict:
    if outcome.state != "done":
        return Verdict(False, outcome.state)
    correct, how = outcome.value
    return Verdict(correct, how)


def second_opinions(
    pairs: Sequence[Pair], workers: int = 1, limit_seconds: float = LIMIT_SECONDS
) -> list[bool | None]:
    """What math-verify says of every pair, each in a killable process; None where it cannot say."""
    opinions: list[bool | None] = [None] * len(pairs)
    places = [
        place
        for place, (answer, reference) in enumerate(pairs)
        if answer and len(answer) <= MAX_CHARACTERS >= len(reference)
    ]
    outcomes = _pool("opinion", workers, limit_seconds).map(list(pairs[p]) for p in places)
    for place, outcome in zip(places, outcomes, strict=True):
        opinions[place] = outcome.value if outcome.state == "done" else None
    return opinions


def equal_without_algebra(
    answer: str | None, reference: str, rules: Rules = OURS
) -> Verdict | None:
    """The verdict of the exact rules, or None when only algebra can tell."""
    if answer is None or not answer.strip():
        return Verdict(False, "no answer")
    if answer.strip() == reference.strip():
        return Verdict(True, "text")
    if len(answer) > MAX_CHARACTERS or len(reference) > MAX_CHARACTERS:
        return Verdict(False, "too long")
    first, second = tidy(answer, rules.steps), tidy(reference, rules.steps)
    is_renamed = bool(
        "prefix" in rules.steps
        and (name := name_of(answer, rules.steps))
        and (other := name_of(reference, rules.steps))
        and name != other
    )
    if not is_renamed and first and _closed_up(first) == _closed_up(second):
        return Verdict(True, "text")
    if "choice" in rules.checks and (verdict := _as_choices(first, second)):
        return verdict
    if "words" in rules.checks and (verdict := _as_words(first, second, reference)):
        return verdict
    if "number" not in rules.checks or is_renamed:
        return None
    return _as_numbers(answer, reference, rules)


def _closed_up(text: str) -> str:
    """Without spaces that say nothing: 1 1/2 must not become 11/2, nor two words one."""
    return re.sub(r"(?<!\w) | (?!\w)|(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", "", text)


def _as_choices(answer: str, reference: str) -> Verdict | None:
    """Letters of choices, or ringed numbers; None where the reference is neither."""
    expected = re.fullmatch(r"\(([A-Ja-j])\)|([A-J])\)?\.?", reference)
    if expected is not None:
        chosen = _LETTER.fullmatch(answer)
        if chosen is not None:
            letter = next(group for group in chosen.groups() if group)
            wanted = (expected[1] or expected[2]).upper()
            return Verdict(letter.upper() == wanted, "choice")
        return None
    if re.search("[①-⑳]", reference) and not re.sub(r"[①-⑳,\s]", "", reference + answer):
        ringed = [sorted(re.findall("[①-⑳]", text)) for text in (answer, reference)]
        return Verdict(ringed[0] == ringed[1], "choice")
    if re.search(r"[, ]", answer + reference) and _LETTERS.fullmatch(reference):
        if not _LETTERS.fullmatch(answer):
            return None
        chosen_letters, wanted_letters = (
            sorted(re.findall(r"\b[A-J]\b|[A-J]", text)) for text in (answer, reference)
        )
        return Verdict(chosen_letters == wanted_letters, "choice")
    return None


def _as_words(answer: str, reference: str, raw_reference: str) -> Verdict | None:
    """Words want the same words: math-verify would read Evelyn as a product of letters."""
    times = [_CLOCK.fullmatch(text) for text in (answer, reference)]
    if times[0] and times[1]:
        found = [(int(t[1]), int(t[2] or 0), (t[3] or t[4] or "").lower()) for t in times if t]
        same_half = not all(half for _, _, half in found) or found[0][2] == found[1][2]
        return Verdict(found[0][:2] == found[1][:2] and same_half, "words")
    is_words = re.fullmatch(r"[A-Za-z']{2,}(?:[ -][A-Za-z']{2,})*", reference) and (
        reference.casefold() in _WORDS or len(reference) > 3 or "\\text" in raw_reference
    )
    if is_words and not re.fullmatch(r"(?:all|any|no|the|empty)\s.*|sqrt.*|infinity", reference):
        return Verdict(_closed_up(answer).casefold() == _closed_up(reference).casefold(), "words")
    if re.search("[\u4e00-\u9fff]{2}", reference) and not re.search(r"\d", reference):
        return Verdict(_closed_up(answer) == _closed_up(reference), "words")
    return None


def _as_numbers(answer: str, reference: str, rules: Rules) -> Verdict | None:
    first = parse_quantity(answer, rules.steps)
    second = parse_quantity(reference, rules.steps)
    if first and second:
        return Verdict(_same_quantity(first, second, rules.checks), "number")
    if "list" not in rules.checks or ";" in answer + reference:
        return None
    many = parse_quantities(answer, rules.steps)
    expected = parse_quantities(reference, rules.steps) if many else None
    if not many or not expected or _num_names(answer) > 1 or _num_names(reference) > 1:
        return None
    if _values(many) == _values(expected):
        return Verdict(True, "numbers")
    is_rounded = any(one.places >= ROUNDED_PLACES for one in many + expected)
    return None if is_rounded or "tolerance" in rules.checks else Verdict(False, "numbers")


def _same_quantity(first: Quantity, second: Quantity, checks: frozenset[str]) -> bool:
    if "units" not in checks:
        first, second = (replace(one, kind="", size=Fraction(1)) for one in (first, second))
    elif "percent value" not in checks:
        first, second = (
            replace(one, kind="") if one.kind == "percent" else one for one in (first, second)
        )
    if first.equals(second):
        return True
    if first.kind and second.kind and first.kind != second.kind:
        return False
    if "rounding" in checks and first.is_decimal != second.is_decimal:
        places = first.places if first.is_decimal else second.places
        if places >= ROUNDED_PLACES:
            return abs(first.value - second.value) <= Fraction(1, 10**places)
    if "tolerance" not in checks:
        return False
    factors = (1, 100, Fraction(1, 100)) if "percent any" in checks else (1,)
    targets = [second.value * factor for factor in factors]
    return any(abs(first.value - target) <= TOLERANCE * abs(target) for target in targets)


def _values(quantities: list[Quantity]) -> list[Fraction]:
    return sorted(quantity.value * quantity.size for quantity in quantities)


def _num_names(text: str) -> int:
    return len(set(re.findall(r"([A-Za-z]\w?)\s*=", text)))


@functools.cache
def _pool(function: str, workers: int, limit_seconds: float) -> Pool:
    """One warm pool a process for each setting; ended with the process."""
    pool = Pool(
        f"megatron_math.answers.judge:{function}",
        workers=workers,
        limit_seconds=limit_seconds,
        memory_bytes=MEMORY_BYTES,
    )
    atexit.register(pool.close)
    return pool
