"""Thousands of items at a time: in order, bounded, each asked what it asks and no more."""

import random

import pytest

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.engine.interface import Request
from megatron_math.engine.kept import KeptEngine
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.synthesize.driver import Driver
from megatron_math.synthesize.work import Ask, Outcome, Reject


class Works:
    """Items with a random number of turns to two engines; counts those in work."""

    def __init__(self, count, seed=1):
        draws = random.Random(seed)
        self.turns = [
            [[draws.choice("ab") for _ in range(draws.randint(0, 3))] for _ in range(n)]
            for n in (draws.randint(0, 4) for _ in range(count))
        ]
        self.begun = self.ended = self.most = 0

    def __iter__(self):
        return (self.work(number) for number in range(len(self.turns)))

    def work(self, number):
        self.begun += 1
        self.most = max(self.most, self.begun - self.ended)
        heard = []
        for turn, roles in enumerate(self.turns[number]):
            asks = [
                Ask(role, Request(f"{number}/{turn}/{place}", 9))
                for place, role in enumerate(roles)
            ]
            answers = yield asks
            assert [answer.generations[0].text for answer in answers] == [
                f"{role}:{number}/{turn}/{place}" for place, role in enumerate(roles)
            ]
            heard += roles
        self.ended += 1
        return Outcome(rejects=[Reject(str(number), "".join(heard))])


@pytest.fixture
def engines(tmp_path):
    found = {}
    for role in "ab":
        script = ScriptedEngine(lambda prompt, role=role: f"{role}:{prompt}")
        script.in_flight = 5
        found[role] = KeptEngine(script, tmp_path / role, who={"role": role})
    yield found
    for engine in found.values():
        engine.close()


@pytest.mark.parametrize("window", [1, 3, 50, 1000])
def test_outcomes_come_in_order_and_the_window_holds(engines, window):
    works = Works(200)
    driver = Driver(engines, window)
    outcomes = list(driver.run(works))
    assert [outcome.rejects[0].reason for outcome in outcomes] == [str(n) for n in range(200)]
    expected = ["".join(role for turn in turns for role in turn) for turns in works.turns]
    assert [outcome.rejects[0].detail for outcome in outcomes] == expected
    for role in "ab":
        asked = sum(text.count(role) for text in expected)
        assert driver.requests[role] == driver.answered[role] == engines[role].file.calls == asked
    assert works.most <= window


def test_again_nothing_is_asked(engines):
    first = [o.rejects[0].detail for o in Driver(engines, 20).run(Works(80))]
    asked = {role: len(engine.engine.asked) for role, engine in engines.items()}
    assert [o.rejects[0].detail for o in Driver(engines, 7).run(Works(80))] == first
    assert {role: len(engine.engine.asked) for role, engine in engines.items()} == asked


def test_a_stop_between_items():
    stopped = []
    works = Works(0)
    works.turns = [[] for _ in range(10)]
    driver = Driver({}, 4, lambda: len(stopped) >= 3)
    with pytest.raises(StoppedOnRequest):
        for outcome in driver.run(works):
            stopped.append(outcome)
    assert len(stopped) == 3
