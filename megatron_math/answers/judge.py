"""math-verify's opinion on one pair. Runs only inside a process that may be killed.

math-verify's own timeout does not hold (a tower of powers hangs it in C code), so it is switched
off and the deadline is the pool's.
"""

import logging
from typing import Any

from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

logging.getLogger("math_verify").setLevel(logging.ERROR)
_LATEX = [LatexExtractionConfig()]
_PLAIN = [ExprExtractionConfig()]


def judge(pair: list[str]) -> bool:
    """True when math-verify reads both of [answer, reference] and finds them equal."""
    answer, reference = (_parse(text) for text in pair)
    return bool(verify(reference, answer, timeout_seconds=None) if answer and reference else False)


def warm_up() -> None:
    """Build the parser's tables (0.2 s) once, before children are forked."""
    judge([r"\frac{1}{2}", "x + 1"])


def _parse(text: str) -> list[Any]:
    """What math-verify reads: as LaTeX, or as plain mathematics such as x^(1/2)."""
    text = text.strip().strip("$")
    read = list(parse(f"\\boxed{{{text}}}", _LATEX, parsing_timeout=None))
    if any(not isinstance(item, str) for item in read) or "\\" in text:
        return read
    return list(parse(text, _PLAIN, parsing_timeout=None)) or read
