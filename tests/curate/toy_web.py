"""A small web of real pages: which of them are mathematics is known.

Mathematics: GSM8K train problems on quiz.example, MATH-500 under forum.example/questions, sections
of the Stacks project on stacks.example. General: WikiText paragraphs on twenty hosts, and some
under forum.example/about. A seed of other GSM8K problems and sections, without anything like
MATH-500. WikiText's own marks of tokenization are
taken out, else a classifier would tell the corpora apart by them.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Web:
    """seed, pool: rows. math: ids of the pool's pages that are mathematics, by corpus."""

    seed: list[Row]
    pool: list[Row]
    math: dict[str, set[str]]

    @property
    def all_math(self) -> set[str]:
        return set().union(*self.math.values())


def gsm8k(shared_data: Path, begin: int, end: int, *, notes: bool = False) -> list[str]:
    """Train problems with solutions, without the calculator's notes unless they are wanted."""
    with open(shared_data / "gsm8k" / "train.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in list(file)[begin:end]]
    plain = re.compile(r"<<[^>]*>>" if not notes else r"(?!)")
    return [f"{row['question']}\n{plain.sub('', row['answer'])}" for row in rows]


def math500(shared_data: Path) -> list[Row]:
    with open(shared_data / "eval" / "math-oai.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def stacks(shared_data: Path) -> list[str]:
    """Sections of the Stacks project, whole."""
    found = []
    for name in ("derived", "categories", "cohomology", "algebra"):
        text = (shared_data / "math" / f"stacks_{name}.tex").read_text(encoding="utf-8")
        body = text.split("\\input{chapters}")[0]
        found += re.split(r"(?=\\section\{)", body)[1:]
    return found


def wikitext(shared_data: Path, part: str) -> list[str]:
    """Paragraphs of some length, written as people write."""
    text = (shared_data / "general" / f"wikitext2_{part}.txt").read_text(encoding="utf-8")
    for token, plain in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), ("<unk>", "Smith")):
        text = text.replace(token, plain)
    text = re.sub(r" ([,.;:!?)%]|'s\b|n't\b)", r"\1", text).replace("( ", "(")
    text = re.sub(r'" ([^"\n]*) "', r'"\1"', text)
    return [line.strip() for line in text.split("\n") if len(line) > 300]


def toy_web(shared_data: Path) -> Web:
    """Pages in an order that says nothing."""
    pages: list[tuple[str, str, str]] = []  # corpus, address, text
    problems, sections = gsm8k(shared_data, 1000, 1150), stacks(shared_data)
    pages += [("gsm8k", f"quiz.example/problems/{n}", text) for n, text in enumerate(problems)]
    for n, row in enumerate(math500(shared_data)[:150]):
        text = f"{row['problem']}\n{row['solution']}"
        pages.append(("math500", f"forum.example/questions/{n}", text))
    for n, text in enumerate(sections[:60]):
        pages.append(("stacks", f"stacks.example/tag/{n}", text[:3000]))
    general = wikitext(shared_data, "valid") + wikitext(shared_data, "test")
    pages += [("general", f"forum.example/about/{n}", text) for n, text in enumerate(general[:30])]
    for n, text in enumerate(general[30:1230]):
        pages.append(("general", f"host{n % 20}.example/wiki/{n}", text))
    random.Random(0).shuffle(pages)
    pool = [
        {"id": f"p{n}", "text": text, "meta": {"url": f"https://www.{address}"}}
        for n, (_, address, text) in enumerate(pages)
    ]
    math: dict[str, set[str]] = {"gsm8k": set(), "math500": set(), "stacks": set()}
    for row, (corpus, _, _) in zip(pool, pages, strict=True):
        if corpus in math:
            math[corpus].add(row["id"])
    known = gsm8k(shared_data, 0, 120) + [text[:3000] for text in sections[60:90]]
    seed = [{"id": f"s{n}", "text": text} for n, text in enumerate(known)]
    return Web(seed, pool, math)


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
