"""math-verify's opinion on one pair. Runs only inside a process that may be killed.

math-verify's own timeout does not hold (a tower of powers hangs it in C code), so it is switched
off and the deadline is the pool's.
"""

import logging
from typing import Any

from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

logging.getLogger("math_verify").setLevel(logging.ERROR)
_FORMS = [LatexExtractionConfig(), ExprExtractionConfig()]


def judge(pair: list[str]) -> bool:
    """True when math-verify reads both of [answer, reference] and finds them equal."""
    answer, reference = (_parse(text) for text in pair)
    return bool(verify(reference, answer, timeout_seconds=None) if answer and reference else False)


def _parse(text: str) -> list[Any]:
    text = text.strip().strip("$")
    return list(parse(f"\\boxed{{{text}}}", _FORMS, parsing_timeout=None))
