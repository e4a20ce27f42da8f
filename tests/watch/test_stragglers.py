"""A rank whose own time is longer is named once; waits, noise and figures of before are not."""

from megatron_math.watch.beats import Beat
from megatron_math.watch.stragglers import COUNT, PROBE, STEP, Stragglers, slow_ranks


def beats(*paces: dict[str, float], count: float = 1) -> list[Beat]:
    return [
        Beat(rank, 1, "n", "b/n/1/1", 5, "data", pace={STEP: 1.0, COUNT: count} | pace)
        for rank, pace in enumerate(paces)
    ]


def test_the_slow_one_is_named_by_what_is_its_own() -> None:
    found = slow_ranks(beats({"data": 0.01}, {"data": 0.31}, {"data": 0.02}), 0.2)
    assert [(one.rank, one.kind, one.seconds, one.usual) for one in found] == [
        (1, "data", 0.31, 0.02)
    ]
    assert slow_ranks(beats({"data": 0.01}, {"data": 0.20}), 0.2) == []
    two = slow_ranks(beats({"forward_backward": 0.9}, {"forward_backward": 0.5}), 0.2)
    assert [one.rank for one in two] == [0]


def test_a_probe_is_compared_with_probes() -> None:
    found = slow_ranks(beats({PROBE: 1e-4}, {PROBE: 1.3e-4}, {PROBE: 1e-4}), 0.2)
    assert [(one.rank, one.kind) for one in found] == [(1, PROBE)]
    assert slow_ranks(beats({PROBE: 1e-4}, {PROBE: 1.1e-4}), 0.2) == []


def test_it_is_told_once_until_it_was_good_again() -> None:
    rule = Stragglers(0.2)
    slow, good = ({"data": 0.0}, {"data": 0.5}), ({"data": 0.0}, {"data": 0.0})
    assert rule.compare(beats(*slow, count=1)) == []  # one may be chance
    assert rule.compare(beats(*slow, count=1)) is None  # nothing new
    (message,) = rule.compare(beats(*slow, count=2)) or []
    assert message.startswith("rank 1 (host n, process 1) after iteration 5")
    assert message.endswith("data takes 500.0 ms, and 0.0 ms on the usual rank")
    assert rule.compare(beats(*slow, count=3)) == []
    assert rule.compare(beats(*good, count=4)) == []
    assert rule.compare(beats(*slow, count=5)) == []
    assert len(rule.compare(beats(*slow, count=6)) or []) == 1


def test_ranks_alike_and_a_lone_one_are_not_named() -> None:
    assert slow_ranks(beats({"data": 0.5}, {"data": 0.55}, {"data": 0.45}), 0.2) == []
    assert slow_ranks(beats({"data": 0.5}), 0.2) == []
