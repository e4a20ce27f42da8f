"""Find the final answer in a solution text.

Rules in order (as in JiuZhang3.0's evaluation, papers.md 2.9): the last `\\boxed{...}`, the last
"answer is ..." or "#### ...", the last number. A text that was cut off never gives a piece of an
answer through the first two rules: an unclosed box or an empty "the answer is" counts as absent.
All rules take time linear in the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["boxed", "stated", "last number"]
RULES: tuple[Rule, ...] = ("boxed", "stated", "last number")
# A stated answer is a line; whoever writes more than this after "the answer is" states none.
MAX_STATED_CHARACTERS = 2000

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([-+]?\d[\d.,]*\d|[-+]?\d|[A-Za-z]\b)")
_STATED = re.compile(r"\banswer\s+is\b\s*:?|####", re.IGNORECASE)
_MATH_SPAN = re.compile(r"\$([^$]+)\$\s*(?:[.,;!?]|$)")
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
# "-3" and "-$3" are negative, "5-3" and "5 - 3" are not.
_SIGN = re.compile(r"(?<![\w)\]}])[-\u2212]\\?\$?$")


@dataclass(frozen=True)
class Extraction:
    """The answer as written (None: nothing found) and the rule that found it."""

    answer: str | None
    rule: Rule | None


def extract_answer(text: str, rules: Sequence[Rule] = RULES) -> Extraction:
    """The final answer of `text` by the first of `rules` that finds one."""
    finders = {"boxed": last_boxed, "stated": last_stated, "last number": last_number}
    for rule in rules:
        answer = finders[rule](text)
        if answer is not None:
            return Extraction(answer, rule)
    return Extraction(None, None)


def last_boxed(text: str) -> str | None:
    """Content of the complete `\\boxed{...}` that opens last; `\\boxed 5` gives 5."""
    opened: list[tuple[bool, int]] = []  # (is a box, where its content starts)
    best_start, best = -1, None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{" or token.endswith("{") and len(token) > 2:
            opened.append((token != "{", match.end()))
        elif token == "}" and opened:
            is_box, start = opened.pop()
            content = text[start : match.start()].strip() if is_box and start > best_start else ""
            if content:
                best_start, best = start, content
    for match in _BARE_BOX.finditer(text):
        if match.start() > best_start:
            best_start, best = match.start(), match.group(1)
    return best


def last_stated(text: str) -> str | None:
    """What follows the last "answer is" or "####", to the end of its sentence."""
    for match in reversed(list(_STATED.finditer(text))):
        answer = _to_end_of_sentence(text[match.end() : match.end() + MAX_STATED_CHARACTERS])
        if answer:
            return answer
    return None


def _to_end_of_sentence(text: str) -> str:
    line = text.lstrip(" \t*:").split("\n", 1)[0]
    if span := _MATH_SPAN.match(line):
        return span.group(1).strip()
    sentence = re.split(r"[.!?](?:\s|$)", line, maxsplit=1)[0]
    return sentence.strip(" \t*").rstrip(".:, ")


def last_number(text: str) -> str | None:
    """The last number; thousands separators and a minus sign right before it are part of it."""
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    if last is None:
        return None
    before = text[max(0, last.start() - 4) : last.start()]
    return ("-" if _SIGN.search(before) else "") + last.group()
