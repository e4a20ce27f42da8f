"""Which rank is named, when, and when none is: rules over made-up signs of life."""

from dataclasses import replace

from megatron_math.watch.beats import Beat, Heard, behind
from megatron_math.watch.hang import EARLY_STEPS, Finding, Judge, Limits

LIMITS = Limits(frozen=3.0, stuck=30.0, hang=100.0)
PROCESS = "boot/ns/77/1"


def beat(rank: int, number: int = 1, **facts: object) -> Beat:
    plain = Beat(rank, number, f"n{rank}", PROCESS, iteration=12, phase="forward_backward")
    return replace(plain, num_borders=3, **facts)  # type: ignore[arg-type]


class Scene:
    """A judge that looks every half second at beats of a second each."""

    def __init__(self, world: int, limits: Limits = LIMITS, store_rank: int | None = 0) -> None:
        self.judge = Judge(limits, "the store on rank 0", store_rank=store_rank)
        self.beats = [beat(rank) for rank in range(world)]
        self.told: list[Finding] = []
        for _ in range(EARLY_STEPS):
            self.judge.stepped(1.0)
        self.hear()

    def hear(self) -> None:
        self.judge.hear([Heard(one.encode().encode()) for one in self.beats])

    def run(
        self, seconds: float, *, silent: tuple[int, ...] = (), moving: bool = False,
        stepping: bool = False, is_deaf: bool = False,
    ) -> list[Finding]:  # fmt: skip
        """Time passes; returns what was told in it."""
        before = len(self.told)
        for half in range(round(2 * seconds)):
            for rank, one in enumerate(self.beats):
                if rank in silent or half % 2:
                    continue
                more = {group: n + moving for group, n in one.collectives.items()}
                iteration = one.iteration + stepping
                self.beats[rank] = replace(
                    one, number=one.number + 1, collectives=more, iteration=iteration
                )
            if stepping:
                self.judge.stepped(1.0)
            if not is_deaf:
                self.hear()
            self.told += self.judge.look(0.5)
        return self.told[before:]


def test_a_frozen_rank_is_named_once_in_time_and_again_when_it_lives() -> None:
    scene = Scene(4)
    assert scene.run(20, stepping=True) == []
    assert scene.run(2, silent=(2,)) == []
    (found,) = scene.run(2, silent=(2,))
    assert (found.event, found.ranks) == ("frozen", (2,))
    assert "rank 2 (host n2, process 77) after iteration" in found.message
    assert "in forward_backward; no sign of life for 3" in found.message
    assert scene.run(60, silent=(2,)) == []  # nor are its victims stuck
    assert scene.judge.frozen == {2}
    (back,) = scene.run(3)
    assert (back.event, back.ranks) == ("alive", (2,))
    assert scene.judge.cause is None


def test_a_rank_that_stays_frozen_ends_the_run() -> None:
    scene = Scene(2)
    scene.run(110, silent=(0,))
    assert scene.judge.cause is not None
    assert scene.judge.cause.startswith("frozen for 100 s: rank 0 (host n0")
    patient = Scene(2, Limits(3.0, 30.0, None))
    patient.run(1000, silent=(0,))
    assert patient.judge.cause is None


def test_a_silent_rank_does_not_end_a_run_that_comes_on() -> None:
    scene = Scene(2)
    for _ in range(200):
        scene.beats[1] = replace(scene.beats[1], iteration=scene.beats[1].iteration + 1)
        scene.run(1, silent=(0,))
    assert [one.event for one in scene.told] == ["frozen"]
    assert scene.judge.cause is None


def test_a_suspended_job_has_no_frozen_rank() -> None:
    """All stop: the judge, too, so its next look is one tick long, whatever a clock says."""
    scene = Scene(3)
    scene.run(5)
    for _ in range(50):
        assert scene.run(1.0, silent=(0, 1, 2)) == []
        assert scene.run(2.0, stepping=True) == []


def test_a_rank_that_has_left_the_loop_is_not_frozen() -> None:
    scene = Scene(2)
    scene.beats[0] = replace(scene.beats[0], is_over=True)
    assert scene.run(20, silent=(0,)) == []


def test_a_store_that_is_silent_names_the_rank_that_holds_it() -> None:
    scene = Scene(2)
    assert scene.run(2.5, is_deaf=True) == []
    (found,) = scene.run(1, is_deaf=True)
    assert (found.event, found.ranks) == ("frozen", (0,))
    assert "the store on rank 0 has not answered for 3.0 s" in found.message
    (back,) = scene.run(1)
    assert back.event == "alive"
    scene.run(110, is_deaf=True)
    assert scene.judge.cause is not None
    assert "rank 0 (host n0, process 77)" in scene.judge.cause
    launched = Scene(2, store_rank=None)
    (found,) = launched.run(4, is_deaf=True)
    assert found.ranks == ()


def test_a_silent_store_does_not_end_a_run_that_makes_steps() -> None:
    scene = Scene(2)
    scene.run(300, is_deaf=True, stepping=True)
    assert scene.judge.cause is None


def test_the_one_behind_is_named_and_not_its_victim() -> None:
    scene = Scene(2)
    scene.run(10, stepping=True)
    scene.beats[0] = replace(scene.beats[0], phase="data", num_borders=1, collectives={"0": 40})
    scene.beats[1] = replace(scene.beats[1], is_waiting=True, collectives={"0": 41})
    (found,) = scene.run(35)
    assert (found.event, found.ranks) == ("stuck", (0,))
    assert "in data; the others are in a collective that it has not begun" in found.message
    assert "no rank came on for 30 s" in found.message
    assert scene.judge.cause is None
    scene.run(70)
    assert scene.judge.cause is not None
    assert scene.judge.cause.startswith("stuck for 100 s: rank 0 (host n0")


def test_a_slow_but_living_step_is_no_hang() -> None:
    slow = Scene(2)
    for _ in range(5):
        slow.judge.stepped(8.0)  # 20 medians are 160 s
    slow.judge.stepped(8.0)
    assert slow.run(150) == []
    pause = Scene(2)
    for seconds in (1.0, 1.0, 50.0, 1.0):  # a validation took 50 s
        pause.judge.stepped(seconds)
    pause.judge.stepped(1.0)
    pause.judge.stepped(1.0)
    assert pause.run(95) == []
    assert pause.judge.cause is None


def test_ranks_that_still_talk_are_named_and_not_ended() -> None:
    scene = Scene(2)
    scene.beats = [
        replace(one, phase="save", collectives={"0": 5}, is_writing=one.rank == 1)
        for one in scene.beats
    ]
    (found,) = scene.run(400, moving=True)
    assert (found.event, found.ranks) == ("stuck", (1,))
    assert "its part of the checkpoint is not written" in found.message
    assert scene.judge.cause is None


def test_where_all_are_alike_nobody_is_named_and_nothing_ends() -> None:
    scene = Scene(2)
    (found,) = scene.run(400)
    assert (found.event, found.ranks) == ("stuck", ())
    assert "no rank is behind the others" in found.message
    assert scene.judge.cause is None


def test_a_rank_that_waits_itself_is_a_victim() -> None:
    """Data 2 x tensor 2: rank 1 sleeps, 0 waits for it in their layer, 2 and 3 for both."""
    counts = [
        {"t01": 10, "d02": 4}, {"t01": 9, "d13": 4}, {"t23": 30, "d02": 5}, {"t23": 30, "d13": 5},
    ]  # fmt: skip
    ranks, _ = behind(beat(rank, collectives=count) for rank, count in enumerate(counts))
    assert ranks == [1]
    circle = [{"a": 1, "b": 2}, {"a": 2, "b": 1}]
    ranks, _ = behind(beat(rank, collectives=count) for rank, count in enumerate(circle))
    assert ranks == [0, 1]


def test_places_and_waits_tell_where_collectives_do_not() -> None:
    ranks, reason = behind([beat(0, iteration=12), beat(1, iteration=11)])
    assert (ranks, reason) == ([1], "the others are further on")
    ranks, reason = behind([beat(0), beat(1, is_waiting=True), beat(2, is_waiting=True)])
    assert (ranks, reason) == ([0], "the others wait for a message")
    assert behind([beat(0), beat(1)])[0] == []
    assert behind([beat(0, is_waiting=True), beat(1, is_waiting=True)])[0] == []


def test_a_beat_is_read_as_it_was_written() -> None:
    one = beat(3, 9, collectives={"0": 7}, is_over=True, pace={"data": 0.5})
    heard = Heard(one.encode().encode())
    assert heard.beat == one
    assert (heard.number, heard.place, heard.is_over) == (9, (12, 3), True)
