"""No answer keeps a grader for more than 2 s or 512 MB, and its neighbours are judged as ever."""

import json
import time
from pathlib import Path

import pytest
from hostile_answers import hostile_answers

from megatron_math.answers import equal as equal_module
from megatron_math.answers.equal import MEMORY_BYTES, Verdict, equal, equal_many, second_opinions
from megatron_math.answers.extract import extract_answer
from megatron_math.sandbox.pool import Pool

SECONDS = 2.0


def test_each_is_answered_and_harms_no_neighbour() -> None:
    limit_seconds = 0.75
    corpus = hostile_answers()
    pairs = []
    for _, answer, reference in corpus:
        pairs += [(answer, reference), ("-q + p", "p - q")]
    started = time.monotonic()
    verdicts = equal_many(pairs, limit_seconds=limit_seconds)
    assert time.monotonic() - started < len(corpus) * (limit_seconds + 0.5)
    assert all(verdict == Verdict(True, "algebra") for verdict in verdicts[1::2])
    accepted = [row[0] for row, v in zip(corpus, verdicts[::2], strict=True) if v.correct]
    assert accepted == []
    late = {row[0] for row, v in zip(corpus, verdicts[::2], strict=True) if v.how == "timeout"}
    assert {"sum over a trillion", "both towers"} <= late
    assert len(late) < len(corpus) / 2


@pytest.mark.parametrize(
    "name",
    ["tower", "nested ln of a tower", "sum over a trillion", "matrix of ones", "both towers",
     "megabyte of digits", "megabyte of a matrix"],
)  # fmt: skip
def test_two_seconds_are_enough_for_each(name: str) -> None:
    (pair,) = [(answer, reference) for one, answer, reference in hostile_answers() if one == name]
    assert equal("-q + p", "p - q").correct  # start the pool
    taken = []
    for _ in range(2):  # a loaded machine may be late once
        started = time.monotonic()
        assert not equal(*pair).correct
        taken.append(time.monotonic() - started)
        if taken[-1] < SECONDS:
            return
    pytest.fail(f"{name}: {taken} s")


def test_what_hangs_math_verify_is_ended_and_said() -> None:
    assert second_opinions([("5", "5")]) == [True]  # start the pool
    started = time.monotonic()
    assert second_opinions([("5^(5^(5^(5^5)))", "5"), ("5", "5")]) == [None, True]
    assert time.monotonic() - started < SECONDS + 1


@pytest.mark.parametrize("name", ["judge", "opinion"])
def test_a_worker_may_not_grow_beyond_512_mb(name: str) -> None:
    assert MEMORY_BYTES == 512 << 20
    pool = equal_module._pool(name, 1, equal_module.LIMIT_SECONDS)
    pool.map([["p - q", "-q + p"]])
    keeper = pool._keepers[0]
    assert keeper is not None
    children = Path(f"/proc/{keeper._process.pid}/task/{keeper._process.pid}/children")
    (child,) = children.read_text().split()
    limits = Path(f"/proc/{child}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
    assert line.split()[3:5] == [str(MEMORY_BYTES)] * 2


def grow(item: int) -> int:
    return len(bytearray(item))


def test_an_item_that_wants_more_is_refused_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.syspath_prepend(here)
    with Pool("test_hostile_answers:grow", memory_bytes=MEMORY_BYTES) as pool:
        outcomes = pool.map([1 << 30, 10])
    assert outcomes[0].state in ("error", "died")
    assert outcomes[1].value == 10


def test_extraction_takes_no_time_on_any_of_them() -> None:
    rules = ("minerva", "boxed", "stated", "choice", "last letter", "last number")
    for name, answer, reference in hostile_answers():
        if not name.endswith(("spaces", "words", "numerals", "a matrix")) or reference == "5":
            continue
        for rule in rules:
            started = time.monotonic()
            extract_answer(answer, [rule])  # type: ignore[list-item]
            assert time.monotonic() - started < 3, (name, rule)


def test_many_pairs_with_hostile_ones_between_are_all_judged(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "eval/math-oai.jsonl").open()][:30]
    pairs = [(row["answer"] + " ", row["answer"]) for row in rows]
    mixed = pairs + [(r"\sum_{n=1}^{10^{12}} \frac{1}{n^2}", "5")] + pairs
    verdicts = equal_many(mixed)
    assert sum(verdict.correct for verdict in verdicts) == 60
