"""Read answers in the form that the prompts ask for: lines that begin with a tag and a colon.

Strict about which tags there are and in which order; tolerant about white space, Markdown around a
tag and full-width colons. Every answer that cannot be used has a reason from a short list.
"""

import re
from collections.abc import Sequence

from megatron_math.answers.extract import extract_answer

_THINKING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\s*```[a-z]*\n(.*)\n```\s*", re.DOTALL)


class Unusable(Exception):  # noqa: N818 - a verdict on a text, not a fault of the program
    """An answer that cannot be used. reason: one of few; detail: what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def read_tags(text: str, names: Sequence[str]) -> dict[str, str]:
    """The text behind each tag, which runs to the next one. Raises Unusable.

    Each of `names` must be there once, in this order, with nothing before the first and something
    behind each. `<think>...</think>` in front and a code fence around the whole are passed over.
    """
    text = _THINKING.sub("", text, count=1)
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    pattern = _pattern(names)
    found: list[tuple[str, list[str]]] = []
    known = {name.casefold(): name for name in names}
    for line in text.split("\n"):
        if match := pattern.fullmatch(line):
            found.append((known[" ".join(match[1].split()).casefold()], [match[2]]))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise Unusable("text before the first tag", line.strip()[:80])
    order = [name for name, _ in found]
    for name in names:
        if order.count(name) != 1:
            raise Unusable(f"{'no' if name not in order else 'more than one'} '{name}:'")
    if order != list(names):
        raise Unusable("tags out of order", ", ".join(order))
    values = {name: "\n".join(lines).strip() for name, lines in found}
    for name, value in values.items():
        if not value:
            raise Unusable(f"nothing behind '{name}:'")
    return values


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    words = "|".join(r"\s+".join(map(re.escape, name.split())) for name in names)
    return re.compile(rf"[\s>#*_\-]*({words})[\s*_]*[:：][*_]*[ \t]*(.*)", re.IGNORECASE)


def first_word(text: str, name: str, words: Sequence[str]) -> str:
    """Which of `words` stands behind the first line of `text`, a tag `name`. Raises Unusable."""
    text = _THINKING.sub("", text, count=1)
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    line = text.strip().split("\n", 1)[0]
    match = _pattern([name]).fullmatch(line)
    if match is None:
        raise Unusable(f"does not begin with '{name}:'", line[:80])
    return one_of(match[2], name, words)


def one_of(value: str, name: str, words: Sequence[str]) -> str:
    """`value` without Markdown and stops, if it is one of `words`. Raises Unusable."""
    word = value.strip().strip("*_`\"'.。 ").casefold()
    if word not in words:
        raise Unusable(f"'{name}:' is none of {', '.join(words)}", value[:80])
    return word


def final_answer(solution: str) -> str:
    """What a solution states as its answer, in a box or in words. Raises Unusable."""
    answer = extract_answer(solution, rules=("boxed", "stated")).answer
    if answer is None:
        raise Unusable("no final answer", solution[-80:])
    return answer
