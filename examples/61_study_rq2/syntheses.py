"""Four syntheses of the problems in problems.jsonl, by a program: equal items, or equal words.

    python examples/61_study_rq2/syntheses.py runs/study_texts

Writes <out>/<method>_items.jsonl and <method>_tokens.jsonl for the methods of MathGPT-8B:
diversification (the same problem solved another way), expansion (a new problem of the same kind,
from more_problems.jsonl), retrospective (a later step comes too early and is taken back) and
tutorship (an attempt, a verdict, the wrong step mended). Only steps that are called wrong are.
"""

import argparse
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_math.base.records import Record, read_records, write_records

STEP = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


def with_solution(record: Record, solution: str, method: str) -> Record:
    return Record(
        id=f"{record.id}:{method}",
        source=method,
        problem=record.problem,
        solution=solution,
        answer=record.answer,
        meta={"method": method, **record.meta},
    )


def steps_of(record: Record) -> list[str]:
    """Such as `3 + 4 = 7`, one after another."""
    return [match.group() for match in STEP.finditer(record.solution or "")]


def diversified(record: Record, rng: random.Random) -> str:
    """Sums with their terms changed, differences proven by the sum."""
    told = []
    for step in steps_of(record):
        match = STEP.fullmatch(step)
        assert match is not None, step
        a, sign, b, result = match.groups()
        if sign == "+":
            told.append(f"{b} + {a} = {result}, as {a} + {b} is.")
        else:
            told.append(f"{result} + {b} = {a}, so {step}.")
    return " ".join([*told, f"The answer is {record.answer}."])


def retrospective(record: Record, rng: random.Random) -> str | None:
    """A later step in the place of an earlier one, taken back at once."""
    steps = steps_of(record)
    if len(steps) < 2:
        return None
    place = rng.randrange(len(steps) - 1)
    early = steps[rng.randrange(place + 1, len(steps))]
    told = [*steps[:place], f"{early}. [back]", *steps[place:]]
    sentences = [step if step.endswith("]") else f"{step}." for step in told]
    return " ".join([*sentences, f"The answer is {record.answer}."])


def tutored(record: Record, rng: random.Random) -> str:
    """A student's attempt, wrong in half of the cases, and what a teacher says of it."""
    steps = steps_of(record)
    right = " ".join([*(f"{step}." for step in steps), f"The answer is {record.answer}."])
    if rng.random() < 0.5:
        return f"{right} Check: correct. {right}"
    place = rng.randrange(len(steps))
    match = STEP.fullmatch(steps[place])
    assert match is not None, steps
    false = f"{match[1]} {match[2]} {match[3]} = {int(match[4]) + rng.choice((1, 2))}"
    attempt = " ".join(f"{step}." for step in [*steps[:place], false])
    rest = " ".join(f"{step}." for step in steps[place:])
    return f"{attempt} Check: wrong. {false} is false. {rest} The answer is {record.answer}."


def cut_to_words(records: Sequence[Record], words: int) -> list[Record]:
    """The first records that have so many words, and the one that reaches them."""
    kept, total = [], 0
    for record in records:
        if total >= words:
            break
        kept.append(record)
        total += len(record.render().split())
    return kept


def write(out: Path) -> None:
    """All eight files, from those in the same folder."""
    seeds = list(read_records(out / "problems.jsonl"))
    more = read_records(out / "more_problems.jsonl")
    rng = random.Random("syntheses")
    methods: dict[str, Callable[[Record, random.Random], str | None]] = {
        "diversification": diversified,
        "retrospective": retrospective,
        "tutorship": tutored,
    }
    made = {"expansion": [with_solution(r, r.solution or "", "expansion") for r in more]}
    for name, rewrite in methods.items():
        solutions = [(record, rewrite(record, rng)) for record in seeds]
        made[name] = [with_solution(r, text, name) for r, text in solutions if text is not None]
    items = min(len(records) for records in made.values())
    words = min(sum(len(r.render().split()) for r in records) for records in made.values())
    for name, records in made.items():
        for kind, kept in (("items", records[:items]), ("tokens", cut_to_words(records, words))):
            path = out / f"{name}_{kind}.jsonl"
            print(f"{path}: {write_records(path, kept):,} records")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the first study's texts")
    write(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()
