"""Answers that a person can read: the same problems, what each model wrote, right or wrong.

Reads predictions.jsonl of several models on one benchmark, and disputed.jsonl beside each. A
benchmark has thousands of rows and a page has not, so every kind of row gets its share, spread
evenly over the file, and the counts of the whole stand beside those shown.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.records import enumerate_rows

Row = dict[str, Any]
OUTPUT_CHARACTERS = 1500
QUESTION_CHARACTERS = 2500
DISPUTED = "disputed.jsonl"
# What a row is by its verdicts, and what else may be said of it.
CLASSES = ("learned", "lost", "right by some", "wrong", "right")
REMARKS = ("disputed", "cut off", "no answer")


def read_examples(benchmark: str, sides: Mapping[str, Path], most: int) -> Row | None:
    """At most `most` rows of a benchmark; None when no side has predictions or none are wanted.

    sides: who answered -> predictions.jsonl, in order; files that are not there are left out.
    """
    found = {who: _read(path) for who, path in sides.items() if path.is_file()}
    if not found or not most:
        return None
    second = {who: _read(sides[who].with_name(DISPUTED)) for who in found}
    rows = [
        _example(identity, {who: rows.get(identity) for who, rows in found.items()}, second)
        for identity in dict.fromkeys(i for rows in found.values() for i in rows)
    ]
    chosen = choose([row["kinds"] for row in rows], most)
    shown = [rows[place] for place in chosen]
    prefix = common_prefix([row["question"] for row in rows])
    for row in shown:
        row["question"] = _cut(row["question"][len(prefix) :].strip(), QUESTION_CHARACTERS)
    return {
        "benchmark": benchmark,
        "models": list(found),
        "problems": len(rows),
        "prefix": prefix,
        "kinds": _counted(rows, shown),
        "groups": sorted({group for row in shown for group in row["groups"]}),
        "rows": shown,
    }


def _read(path: Path) -> dict[str, Row]:
    if not path.is_file():
        return {}
    return {str(row["id"]): row for _, row in enumerate_rows(path)}


def _example(
    identity: str, rows: Mapping[str, Row | None], second: Mapping[str, Mapping[str, Row]]
) -> Row:
    told = next(row for row in reversed(list(rows.values())) if row is not None)
    answers = {
        who: None if row is None else _answer(row, second[who].get(identity))
        for who, row in rows.items()
    }
    return {
        "id": identity,
        "question": told["prompt"],
        "reference": str(told["reference"]),
        "groups": _groups(told.get("meta") or {}),
        "kinds": _kinds([answer for answer in answers.values() if answer is not None]),
        "answers": answers,
    }


def _answer(row: Row, second: Row | None) -> Row:
    return {
        "output": _cut(str(row["output"]).strip(), OUTPUT_CHARACTERS),
        "extracted": row["extracted"],
        "correct": bool(row["correct"]),
        "cut_off": row.get("finish") == "length",
        "math_verify": second["math_verify"] if second else None,
    }


def _groups(meta: Mapping[str, Any]) -> list[str]:
    """Single groups only, such as level=1; their combinations divide finer than one reads."""
    return [f"{name}={value}" for name, value in meta.items() if ", " not in name]


def _kinds(answers: Sequence[Row]) -> list[str]:
    right = [answer["correct"] for answer in answers]
    if all(right) or not any(right):
        kinds = ["right" if right[0] else "wrong"]
    elif len(right) > 2:
        kinds = ["right by some"]
    else:
        kinds = ["learned" if right[-1] else "lost"]
    if any(answer["math_verify"] is not None for answer in answers):
        kinds.append("disputed")
    if any(answer["cut_off"] for answer in answers):
        kinds.append("cut off")
    if any(answer["extracted"] is None for answer in answers):
        kinds.append("no answer")
    return kinds


def choose(kinds: Sequence[Sequence[str]], most: int) -> list[int]:
    """Places of at most `most` rows, in order: disputed ones first, then equal shares by class.

    A class smaller than its share leaves the rest to the others.
    """
    disputed = [place for place, own in enumerate(kinds) if "disputed" in own]
    chosen = set(spaced(disputed, most // 2))
    members = {name: [p for p, own in enumerate(kinds) if own[0] == name] for name in CLASSES}
    by_size = sorted((m for m in members.values() if m), key=len)
    for number, places in enumerate(by_size):
        left = [place for place in places if place not in chosen]
        chosen |= set(spaced(left, (most - len(chosen)) // (len(by_size) - number)))
    return sorted(chosen)


def spaced(places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, spread evenly; all of them when there are no more."""
    if count >= len(places):
        return list(places)
    return [places[number * len(places) // count] for number in range(count)]


def common_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with, up to the end of a line: worked examples, words to the model."""
    if len(texts) < 2:
        return ""
    prefix = os.path.commonprefix([min(texts), max(texts)])
    return prefix[: prefix.rfind("\n") + 1]


def _counted(rows: Sequence[Row], shown: Sequence[Row]) -> list[Row]:
    def count(of: Iterable[Row]) -> Counter[str]:
        return Counter(kind for row in of for kind in row["kinds"])

    every, here = count(rows), count(shown)
    return [
        {"kind": kind, "problems": every[kind], "shown": here[kind]}
        for kind in (*CLASSES, *REMARKS)
        if every[kind]
    ]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + " …"
