"""What only a process that may be killed does: our algebra, and math-verify's opinion.

math-verify's own timeout does not hold (a tower of powers hangs it in C code), so it is switched
off and the deadline is the pool's.
"""

import logging
import sys
from typing import Any

from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
from sympy.core.cache import clear_cache

from megatron_math.answers.compare import same_answers
from megatron_math.answers.equal import equal_without_algebra
from megatron_math.answers.rules import OURS, Rules

logging.getLogger("math_verify").setLevel(logging.ERROR)
_LATEX = [LatexExtractionConfig()]
_PLAIN = [ExprExtractionConfig()]


def judge(item: list[Any]) -> list[Any]:
    """[correct, how] of [answer, reference], and maybe steps and checks: ours, then math-verify."""
    answer, reference, rules = _unpacked(item)
    verdict = same_answers(answer, reference, rules)
    if verdict is not None:
        return [verdict, "algebra"]
    if "math-verify" in rules.checks:
        return [opinion([answer, reference]), "math-verify"]
    return [False, "unreadable"]


def _unpacked(item: list[Any]) -> tuple[str, str, Rules]:
    answer, reference, *named = item
    rules = Rules(*(frozenset(names) for names in named)) if named else OURS
    return answer, reference, rules


def judge_whole(item: list[Any]) -> list[Any]:
    """The same with the exact rules before it, which the caller's process otherwise applies."""
    verdict = equal_without_algebra(*_unpacked(item))
    return judge(item) if verdict is None else [verdict.correct, verdict.how]


def judge_chunk(items: list[list[Any]]) -> list[list[Any]]:
    """`judge` for several; what SymPy remembers of them is forgotten."""
    found = [judge(item) for item in items]
    clear_cache()
    return found


def judge_whole_chunk(items: list[list[Any]]) -> list[list[Any]]:
    """`judge_whole` for several."""
    found = [judge_whole(item) for item in items]
    clear_cache()
    return found


def opinion(pair: list[str]) -> bool:
    """True when math-verify reads both of [answer, reference] and finds them equal."""
    answer, reference = (_parse(text) for text in pair)
    return bool(verify(reference, answer, timeout_seconds=None) if answer and reference else False)


def warm_up() -> None:
    """Build the parsers' tables (0.2 s) once, before children are forked."""
    sys.setrecursionlimit(20_000)  # trees are as deep as a thousand characters can make them
    judge([r"\sqrt{2}", "x"])
    opinion([r"\frac{1}{2}", "x + 1"])


def _parse(text: str) -> list[Any]:
    """What math-verify reads: as LaTeX, or as plain mathematics such as x^(1/2)."""
    text = text.strip().strip("$")
    read = list(parse(f"\\boxed{{{text}}}", _LATEX, parsing_timeout=None))
    if any(not isinstance(item, str) for item in read) or "\\" in text:
        return read
    return list(parse(text, _PLAIN, parsing_timeout=None)) or read
