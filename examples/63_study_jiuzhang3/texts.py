"""Texts for the study of JiuZhang3.0 in miniature, from those of the first study.

    python examples/63_study_jiuzhang3/texts.py runs/study_texts

Writes beside them excerpts.jsonl (what the loop asks about) and pages.jsonl (what the corpora are
written after): one third stories in which something changes, two thirds of who has what, with no
sums; and targets.jsonl, 40 problems of the first kind that are in neither.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_math.base.records import Record, read_records, write_records
from megatron_math.synthesize.families.words import NAMES, THINGS

STORIES = {"excerpts": 1500, "pages": 1000}
NUM_TARGETS = 40
QUESTION = " How many?"


def texts(name: str, stories: Sequence[Record], rng: random.Random) -> Iterator[Record]:
    """The stories without their questions, and twice as many that tell who has what."""
    told = [(story.problem or "").removesuffix(QUESTION) for story in stories]
    for _ in range(2 * len(stories)):
        first, second = rng.sample(NAMES, 2)
        one, other = rng.sample(THINGS, 2)
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        told.append(f"{first} has {a} {one} and {second} has {b} {other}.")
    rng.shuffle(told)
    for number, text in enumerate(told):
        yield Record(id=f"{name}:{number}", source=name, text=text)


def write(out: Path) -> None:
    """All three files, from problems.jsonl and more_problems.jsonl in the same folder."""
    rng = random.Random("jiuzhang3 study")
    known = list(read_records(out / "problems.jsonl"))
    targets, others = known[:NUM_TARGETS], known[NUM_TARGETS:]
    stories = {"excerpts": list(read_records(out / "more_problems.jsonl")), "pages": others}
    files = {name: list(texts(name, stories[name][:most], rng)) for name, most in STORIES.items()}
    for name, records in (files | {"targets": targets}).items():
        path = out / f"{name}.jsonl"
        print(f"{path}: {write_records(path, records):,} records")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the first study's texts")
    write(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()
