"""Find the final answer in a solution text.

Rules in order (as in JiuZhang3.0's evaluation): Minerva's "final answer is ... I hope it is
correct", the last `\\boxed{...}`, the last "answer is ..." or "#### ...", the last number; for
choices the letter behind "answer is" or "choice is", else the last letter. The caller chooses.
A text that was cut off never gives a piece of an answer through the first three: an unclosed box or
an empty "the answer is" counts as absent. All rules take time linear in the text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["minerva", "boxed", "stated", "last number", "choice", "last letter"]
RULES: tuple[Rule, ...] = ("boxed", "stated", "last number")
# A stated answer is a line; whoever writes more than this after "the answer is" states none.
MAX_STATED_CHARACTERS = 2000
# Whoever writes "final answer is" more often than this never comes to an end.
MOST_TRIED = 20

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([-+]?\d[\d.,]*\d|[-+]?\d|[A-Za-z]\b)")
_STATED = re.compile(
    r"\banswer\s+is\b\s*:?|####|答案\s*[是为：:]|(?<![回解])答[：:]", re.IGNORECASE
)
_MINERVA = re.compile(r"final\s+answer\s+is\b\s*:?", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I\s+hope\s+it\s+is\s+correct", re.IGNORECASE)
_LETTER_BEHIND = re.compile(
    r"(?:(?i:\b(?:answer|ans|choice|option))\b|故?选|答案)[\s*]{0,8}(?:(?i:is|was|be)\b|是|为|项)?\s{0,8}"
    r"(?:(?i:the\s+)?(?i:correct\s+)?(?i:option|choice|answer)\b)?[\s:：,=\-]{0,8}"
    r"(?:(?i:is)\s{0,8})?[*$\\({\[]{0,8}(?:(?:text|boxed|mathrm|textbf|mathbf)[({]{0,4})?\s{0,8}([A-J])(?![A-Za-z'’])"
)
_LETTER_BEFORE = re.compile(
    r"(?<![A-Za-z'’])([A-J])[)\].*]*\s+(?:is|must\s+be)\s+(?:(?:the|our|my)\s+)?(?:correct|right|answer|true)\b"
)
_LAST_LETTER = re.compile(r"(?<![A-Za-z'’])[A-E](?![A-Za-z'’])")
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
    for rule in rules:
        answer = _FINDERS[rule](text)
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
    span = _MATH_SPAN.match(line)
    if span and "$" not in line[span.end() :]:  # $5$;$10$ is one answer
        return span.group(1).strip()
    sentence = re.split(r"(?<!\\)[.!?](?:\s|$)|[。！？]", line, maxsplit=1)[0]
    return sentence.strip(" \t*").rstrip(".:, ")


def minerva_answer(text: str) -> str | None:
    """What stands between the last "final answer is" and "I hope it is correct"."""
    for match in reversed(list(_MINERVA.finditer(text))[-MOST_TRIED:]):
        after = text[match.end() : match.end() + MAX_STATED_CHARACTERS]
        if hope := _HOPE.search(after):
            answer = after[: hope.start()].strip()
            if span := re.fullmatch(r"\$([^$]+)\$", answer):
                answer = span[1].strip()
            return answer or None
    return None


def stated_choice(text: str) -> str | None:
    """The letter behind the last "answer is", "choice is", 故选, or before "is correct"."""
    found = [*_LETTER_BEHIND.finditer(text), *_LETTER_BEFORE.finditer(text)]
    return max(found, key=lambda match: match.start(1))[1] if found else None


def last_letter(text: str) -> str | None:
    """The last letter from A to E that stands alone."""
    last = None
    for last in _LAST_LETTER.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    return last.group() if last else None


def last_number(text: str) -> str | None:
    """The last number; thousands separators and a minus sign right before it are part of it."""
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007 - only the last one is wanted
        pass
    if last is None:
        return None
    before = text[max(0, last.start() - 4) : last.start()]
    return ("-" if _SIGN.search(before) else "") + last.group()


_FINDERS: dict[Rule, Callable[[str], str | None]] = {
    "minerva": minerva_answer,
    "boxed": last_boxed,
    "stated": last_stated,
    "last number": last_number,
    "choice": stated_choice,
    "last letter": last_letter,
}
