"""Texts for the studies in miniature: problems of three difficulties, the same facts as prose.

    python examples/00_quickstart_cpu/corpora.py runs/study_texts
    python examples/60_study_rq1/texts.py runs/study_texts

The first command writes general.jsonl and mathtext.jsonl. This one writes beside them:
reading.jsonl (questions whose answers stand in them: from these the base learns to read numbers
and to answer, so that no arm loses for not knowing how, and no arithmetic), lessons.jsonl
(mathtext and, between its documents, prose with worked facts), problems.jsonl and its parts
easy.jsonl, medium.jsonl and hard.jsonl (one, two and three steps), more_problems.jsonl (as many
new ones), shuffled.jsonl (every problem with the solution of another one of its family),
heldout.jsonl (new problems of the same families, half of them with numbers that never met in
training), and other_families.jsonl (stories of kinds that training does not have).
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_math.base.records import Record, read_records, write_records
from megatron_math.synthesize.config import TemplateConfig
from megatron_math.synthesize.families.words import NAMES, THINGS, word_family
from megatron_math.synthesize.generate import Generator
from megatron_math.synthesize.problem import Family

SEED = 1234
FEW, LARGEST = (1, 6), 12
LEVELS = {1: "easy", 2: "medium", 3: "hard"}


def family(name: str, steps: str, expression: str, *texts: str) -> Family:
    """A family whose level is its number of steps; numbers to 6, results to 12."""
    return word_family(
        name,
        1 + steps.count(";"),
        1,
        steps=steps,
        expression=expression,
        ranges=[FEW] * len(set(steps) & set("abcd")),
        largest=LARGEST,
        texts=texts,
    )


# Short on purpose: at equal tokens half the length is twice the problems.
FAMILIES = (
    family(
        "gain", "a + b", "a + b",
        "{A} has {a} {things} and gets {b}. How many?",
        "{a} {things} and {b} more. How many?",
    ),
    family(
        "loss", "a - b", "a - b",
        "{A} has {a} {things} and loses {b}. How many?",
        "{a} {things} and {b} fewer. How many?",
    ),
    family(
        "gain_loss", "p = a + b; p - c", "a + b - c",
        "{A} has {a} {things}, gets {b} and loses {c}. How many?",
        "{a} {things}, {b} more and {c} fewer. How many?",
    ),
    family(
        "loss_gain", "p = a - b; p + c", "a - b + c",
        "{A} has {a} {things}, loses {b} and gets {c}. How many?",
        "{a} {things}, {b} fewer and {c} more. How many?",
    ),
    family(
        "gain_gain", "p = a + b; p + c", "a + b + c",
        "{A} has {a} {things}, gets {b} and gets {c}. How many?",
        "{a} {things}, {b} more and {c} more. How many?",
    ),
    family(
        "gain_loss_gain", "p = a + b; q = p - c; q + d", "a + b - c + d",
        "{A} has {a} {things}, gets {b}, loses {c} and gets {d}. How many?",
        "{a} {things}, {b} more, {c} fewer and {d} more. How many?",
    ),
    family(
        "gain_loss_loss", "p = a + b; q = p - c; q - d", "a + b - c - d",
        "{A} has {a} {things}, gets {b}, loses {c} and loses {d}. How many?",
        "{a} {things}, {b} more, {c} fewer and {d} fewer. How many?",
    ),
)  # fmt: skip
OTHER_FAMILIES = (
    family(
        "bus_on", "a + b", "a + b",
        "A bus with {a} people stops for {A}; {b} get on. How many?",
        "A bus with {a} people meets {A}; {b} get on. How many?",
    ),
    family(
        "bus_off", "a - b", "a - b",
        "A bus with {a} people stops for {A}; {b} get off. How many?",
        "A bus with {a} people meets {A}; {b} get off. How many?",
    ),
    family(
        "bus_on_off", "p = a + b; p - c", "a + b - c",
        "A bus with {a} people stops for {A}; {b} get on and {c} get off. How many?",
    ),
    family(
        "bus_on_off_on", "p = a + b; q = p - c; q + d", "a + b - c + d",
        "A bus with {a} people stops for {A}; {b} get on, {c} get off and {d} get on. How many?",
    ),
)  # fmt: skip
# Facts as prose tells them: the same notation as in solutions, and never a question.
SENTENCES = (
    "When {b} is added to {a}, the sum is {sum}, so {a} + {b} = {sum}.",
    "The sum of {a} and {b} is {sum}, which is written {a} + {b} = {sum}.",
    "Counting on from {a} by {b} ends at {sum}: {a} + {b} = {sum}.",
    "Since {a} + {b} = {sum}, it follows that {sum} - {b} = {a}.",
    "Taking {b} away from {sum} leaves {a}, so {sum} - {b} = {a}.",
    "The difference of {sum} and {b} is {a}, in signs {sum} - {b} = {a}.",
)
OPENINGS = (
    "On sums of small numbers.",
    "A table of differences.",
    "Addition and subtraction undo each other.",
    "Examples of counting on and back.",
    "Remarks on the order of terms.",
)


def reading(number: int) -> Iterator[Record]:
    """One to four questions each, in the form of the problems: what stands where, no sums."""
    rng = random.Random(f"{SEED}/reading")
    for place in range(number):
        asked = [_question(rng) for _ in range(rng.randint(1, 4))]
        text = "\n\n".join(f"Question: {q}\nSolution: {s}" for q, s in asked)
        yield Record(id=f"reading:{place}", source="general", text=text)


def _question(rng: random.Random) -> tuple[str, str]:
    a, b, c = (rng.randint(0, LARGEST) for _ in range(3))
    first, second = rng.sample(NAMES, 2)
    one, other, third = rng.sample(THINGS, 3)
    place, wanted = rng.choice((("first", a), ("second", b), ("last", c)))
    listed = f"{a}, {b}, {c}. The answer is {wanted}."
    return rng.choice(
        (
            (
                f"{first} has {a} {one} and {second} has {b} {other}. How many has {second}?",
                f"{second} has {b}. The answer is {b}.",
            ),
            (
                f"{first} has {a} {one} and {b} {other}. How many {one}?",
                f"{a} {one}. The answer is {a}.",
            ),
            (f"{a} {one}, {b} {other} and {c} {third}. Which number is {place}?", listed),
            (f"{first} has {a}, gets {b} and loses {c} {one}. Which is {place}?", listed),
        )
    )


def lessons(generator: Generator, number: int) -> Iterator[Record]:
    """Prose with four to eight facts each, without pairs of numbers that are held out."""
    rng = random.Random(f"{SEED}/lessons")
    for place in range(number):
        told = [rng.choice(OPENINGS)]
        for _ in range(rng.randint(4, 8)):
            while True:
                a, b = rng.randint(0, LARGEST - 1), rng.randint(*FEW)
                pairs = ((min(a, b), max(a, b)), (b, a + b))
                if a + b <= LARGEST and not any(pair in generator.held_out for pair in pairs):
                    break
            told.append(rng.choice(SENTENCES).format(a=a, b=b, sum=a + b))
        yield Record(id=f"lesson:{place}", source="mathtext", text=" ".join(told))


def with_other_solutions(problems: Sequence[Record]) -> Iterator[Record]:
    """The control: solutions and answers change places within each family."""
    rng = random.Random(f"{SEED}/shuffled")
    taken: dict[str, str] = {}
    for name in sorted({record.meta["family"] for record in problems}):
        members = [record for record in problems if record.meta["family"] == name]
        order = list(range(len(members)))
        rng.shuffle(order)
        solutions = [members[place].solution or "" for place in order]
        taken |= {m.id: solution for m, solution in zip(members, solutions, strict=True)}
    for record in problems:
        yield Record(
            id=record.id,
            source="shuffled",
            problem=record.problem,
            solution=taken[record.id],
            meta={"family": record.meta["family"], "level": record.meta["level"]},
        )


def write(out: Path, num_problems: int, num_heldout: int) -> None:
    """All files below `out`."""
    config = TemplateConfig(
        problems=2 * num_problems,
        levels={1: 0.34, 2: 0.33, 3: 0.33},
        heldout=num_heldout,
        heldout_operands=0.1,
    )
    generator = Generator(config, SEED, FAMILIES)
    written = list(generator.training())
    problems = written[:num_problems]
    files = {"problems": problems, "more_problems": written[num_problems:]}
    for level, name in LEVELS.items():
        files[name] = [record for record in problems if record.meta["level"] == level]
    files["shuffled"] = list(with_other_solutions(problems))
    files["heldout"] = list(generator.heldout(problems))
    others = TemplateConfig(problems=2 * num_heldout, levels=dict.fromkeys(LEVELS, 1.0), heldout=0)
    files["other_families"] = list(Generator(others, SEED + 1, OTHER_FAMILIES).training())
    texts = list(read_records(out / "mathtext.jsonl"))
    prose = list(lessons(generator, len(texts)))
    files["reading"] = list(reading(2 * len(texts)))
    files["lessons"] = [record for pair in zip(texts, prose, strict=True) for record in pair]
    for name, records in files.items():
        path = out / f"{name}.jsonl"
        print(f"{path}: {write_records(path, records):,} records")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder that holds general.jsonl and mathtext.jsonl")
    parser.add_argument("--problems", type=int, default=4800)
    parser.add_argument("--heldout", type=int, default=100, help="for each difficulty")
    given = parser.parse_args(arguments)
    write(given.out, given.problems, given.heldout)


if __name__ == "__main__":
    main()
