"""The pool keeps order and its own life, whatever the items do."""

import os
import sys
import time
from pathlib import Path

import pytest

from megatron_math.sandbox.pool import Pool

VICTIMS = "victims:misbehave"


@pytest.fixture(scope="module", autouse=True)
def victims_can_be_imported():
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    yield
    sys.path.remove(here)


@pytest.fixture(scope="module")
def pool():
    with Pool(VICTIMS, workers=2, limit_seconds=0.5, memory_bytes=1 << 30) as pool:
        yield pool


def test_answers_keep_the_order_of_the_items(pool):
    items = [["sleep", 0.2], *[["echo", number] for number in range(50)]]
    outcomes = pool.map(items)
    assert [outcome.value for outcome in outcomes] == [None, *range(50)]
    assert {outcome.state for outcome in outcomes} == {"done"}


def test_a_hang_is_killed_and_its_neighbours_are_answered(pool):
    items = [["echo", 1], ["hang in C", 12], ["echo", 2], ["sleep", 60], ["echo", 3]]
    started = time.monotonic()
    outcomes = pool.map(items)
    assert time.monotonic() - started < 5
    assert [outcome.state for outcome in outcomes] == ["done", "timeout", "done", "timeout", "done"]
    assert [outcomes[place].value for place in (0, 2, 4)] == [1, 2, 3]


def test_death_memory_and_exceptions_are_outcomes(pool):
    items = [["exit", 3], ["memory", 4 << 30], ["raise", "planted"], ["echo", "alive"]]
    died, memory, raised, alive = pool.map(items)
    assert died.state == "died"
    assert (memory.state, raised.state) == ("error", "error")
    assert "MemoryError" in memory.reason
    assert "planted" in raised.reason
    assert alive.value == "alive"


def test_what_a_child_prints_cannot_pass_for_an_answer(pool):
    assert pool.map([["noise", "true value"]])[0].value == "true value"


def test_items_and_answers_of_a_megabyte_pass(pool):
    text = "9" * (1 << 20)
    assert pool.map([["echo", text]])[0].value == text


def test_the_same_warm_child_serves_until_it_is_killed():
    with Pool(VICTIMS, limit_seconds=0.3) as pool:
        first, second = (pool.map([["pid", None]])[0].value for _ in range(2))
        assert first == second != os.getpid()
        pool.map([["sleep", 30]])
        assert pool.map([["pid", None]])[0].value != first


def test_a_killed_keeper_is_replaced():
    with Pool(VICTIMS, limit_seconds=0.3) as pool:
        pool.map([["echo", 1]])
        keeper = pool._keepers[0]
        assert keeper is not None
        os.kill(keeper._process.pid, 9)
        assert pool.map([["echo", 2]])[0].state == "died"
        assert pool.map([["echo", 3]])[0].value == 3


def test_close_leaves_no_process_behind():
    pool = Pool(VICTIMS, limit_seconds=5)
    child = pool.map([["pid", None]])[0].value
    pool.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{child}/stat") as file:  # a zombie waiting for init counts as gone
            if file.read().split(") ")[1].startswith("Z"):
                return
        time.sleep(0.02)
    pytest.fail(f"child {child} outlived its pool")
