"""Our grader against math-verify on the same 10,000 pairs: docs/benchmarks/answers.md.

    python tests/bench/answers [--rounds 3] [--record]

Both run in killable processes from a warm pool of one worker, with the same limits of time and
memory; sides by turns. The pairs: answers that models gave to GSM8K, the references of MATH-500 and
GAOKAO against their own in other words and against one another's, the golden file. Every difference
in verdict must stand in differences.jsonl, or in the golden file, with who is right and why.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent
sys.path[:0] = [str(BENCH / "data_plane"), str(BENCH.parents[1])]

from corpus import shared_data  # noqa: E402
from page import describe_run  # noqa: E402

from megatron_math.answers.equal import Verdict, equal_many, second_opinions  # noqa: E402
from megatron_math.answers.extract import extract_answer  # noqa: E402

NUM_PAIRS = 10_000
PAGE = BENCH.parents[1] / "docs" / "benchmarks" / "answers.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
LISTING = PAGE.with_name("answers_differences.jsonl")
DIFFERENCES = HERE / "differences.jsonl"
GOLDEN = BENCH.parent / "answers" / "golden.jsonl"
Pair = tuple[str, str]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gsm8k_pairs(data: Path) -> list[Pair]:
    """What four models answered, against the reference."""
    references = [
        row["answer"].split("####")[1].strip() for row in rows_of(data / "gsm8k/test.jsonl")
    ]
    pairs = []
    for row, reference in zip(
        rows_of(data / "gsm8k/model_solutions.jsonl"), references, strict=True
    ):
        for solution in row.values():
            if isinstance(solution, dict):
                pairs.append((extract_answer(solution["solution"]).answer or "", reference))
    return pairs


def in_other_words(answer: str, draw: random.Random) -> str:
    """The same answer as another hand would set it."""
    ways = [
        lambda text: text.replace(r"\frac", r"\dfrac"),
        lambda text: f"${text}$",
        lambda text: text.replace(" ", ""),
        lambda text: text.replace(",", ", "),
        lambda text: rf"\boxed{{{text}}}",
        lambda text: text.replace(r"\left", "").replace(r"\right", ""),
        lambda text: f"{text}.0" if text.isdigit() else f"{text} ",
        lambda text: f"x = {text}" if "=" not in text and "," not in text else f"{text}.",
        lambda text: f"{int(text):,}" if text.isdigit() and len(text) > 3 else rf"\({text}\)",
    ]
    return draw.choice(ways)(answer)


def all_pairs() -> list[Pair]:
    """10,000 pairs, at least half of them unequal as strings; always the same ones."""
    data, draw = shared_data(), random.Random(0)
    pairs = gsm8k_pairs(data) + [(row["answer"], row["reference"]) for row in rows_of(GOLDEN)]
    references = [row["answer"] for row in rows_of(data / "eval/math-oai.jsonl")]
    references += [row["answer"] for row in rows_of(data / "eval/gaokao_mathcloze.jsonl")]
    while len(pairs) < NUM_PAIRS:
        reference = draw.choice(references)
        if draw.random() < 0.5:
            pairs.append((in_other_words(reference, draw), reference))
        else:
            pairs.append((draw.choice(references), reference))
    draw.shuffle(pairs)
    assert sum(answer != reference for answer, reference in pairs) >= NUM_PAIRS / 2
    return pairs


def timed(function, *arguments, **more) -> tuple[float, list]:
    started = time.perf_counter()
    found = function(*arguments, **more)
    return time.perf_counter() - started, found


def differences(pairs: list[Pair], ours: list[Verdict], theirs: list[bool | None]) -> list[dict]:
    """Every pair on which the graders differ, once, where math-verify came to an end."""
    found = {}
    for pair, verdict, other in zip(pairs, ours, theirs, strict=True):
        if other is not None and verdict.correct != other:
            found[pair] = {
                "answer": pair[0], "reference": pair[1], "ours": verdict.correct,
                "how": verdict.how, "math_verify": other,
            }  # fmt: skip
    return sorted(found.values(), key=lambda row: (row["answer"], row["reference"]))


def judged() -> dict[Pair, dict]:
    """Differences that were read: the golden file's, and those of differences.jsonl."""
    known = {
        (row["answer"], row["reference"]): {"equal": row["equal"], "why": row["reason"]}
        for row in rows_of(GOLDEN)
    }
    for row in rows_of(DIFFERENCES) if DIFFERENCES.is_file() else []:
        known[row["answer"], row["reference"]] = {"equal": row["equal"], "why": row["why"]}
    return known


def write_listing(found: list[dict], known: dict[Pair, dict]) -> None:
    """Every difference with its judgement, in LISTING."""
    rows = [row | known.get((row["answer"], row["reference"]), {}) for row in found]
    LISTING.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write the page")
    parser.add_argument("--show", type=Path, help="write unread differences to this file")
    arguments = parser.parse_args()
    pairs = all_pairs()
    warm = [("p - q", "-q + p")] * 3
    seconds: dict[str, list[float]] = {"math-verify": [], "ours": [], "ours, all killable": []}
    for side in (equal_many, second_opinions):
        side(warm)
    equal_many(warm, all_killable=True)
    for _ in range(arguments.rounds):
        taken, ours = timed(equal_many, pairs)
        seconds["ours"].append(taken)
        taken, whole = timed(equal_many, pairs, all_killable=True)
        seconds["ours, all killable"].append(taken)
        changed = [
            (pair, one, other)
            for pair, one, other in zip(pairs, ours, whole, strict=True)
            if one.correct != other.correct and not {one.how, other.how} & {"timeout", "died"}
        ]
        assert not changed, changed
        taken, theirs = timed(second_opinions, pairs)
        seconds["math-verify"].append(taken)
        print({name: round(found[-1], 2) for name, found in seconds.items()}, flush=True)
    found, known = differences(pairs, ours, theirs), judged()
    unread = [row for row in found if (row["answer"], row["reference"]) not in known]
    text = report(pairs, ours, theirs, seconds, found, known, unread)
    print(text)
    if arguments.show:
        arguments.show.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in unread))
    if arguments.record:
        write_listing(found, known)
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
    return 1 if unread else 0


def run_line() -> str:
    run = describe_run()
    machine = run["machine"]
    return (
        f"{run['date']}, commit {run['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"load before {machine['load_before']}, Python {run['versions']['python']}, math-verify "
        f"{version('math-verify')}."
    )


def report(pairs, ours, theirs, seconds, found, known, unread) -> str:
    base = statistics.median(seconds["math-verify"])
    lines = [
        run_line(),
        "",
        f"{len(pairs):,} pairs, {sum(a != r for a, r in pairs):,} unequal as strings, "
        f"{sum(v.correct for v in ours):,} equal. One worker, "
        f"{len(seconds['ours'])} rounds, medians.",
        "",
        "| grader | seconds | pairs/s | against math-verify |",
        "|---|---:|---:|---:|",
    ]
    for name, taken in seconds.items():
        ratios = [b / s for b, s in zip(seconds["math-verify"], taken, strict=True)]
        middle = statistics.median(taken)
        lines.append(
            f"| {name} | {middle:.2f} | {len(pairs) / middle:,.0f} | {base / middle:.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}) |"
        )
    how = Counter(verdict.how for verdict in ours)
    lines += [
        "",
        "Decided by: " + ", ".join(f"{name} {n:,}" for name, n in how.most_common()) + ".",
    ]
    right = Counter(
        "ours" if known[row["answer"], row["reference"]]["equal"] == row["ours"] else "math-verify"
        for row in found
        if (row["answer"], row["reference"]) in known
    )
    lines += [
        "",
        f"{len(found)} different pairs have different verdicts: ours is right about "
        f"{right['ours']}, math-verify about {right['math-verify']}, not read: {len(unread)}. "
        f"math-verify came to no end about {sum(o is None for o in theirs)} of all pairs.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
