"""Who has stopped, told from the signs of life of all ranks: a rule without clocks and threads.

Silence is counted in the time that the judge itself was running, so a suspended job, in which all
stop alike, has no silence. Each event is told once, until things were good again.
"""

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from megatron_math.watch.beats import Beat, Heard, behind, describe, describe_all

EARLY_TIMES = 10.0
"""Limits are so much longer in the first steps: kernels are compiled and memory is taken."""
EARLY_STEPS = 3
STUCK_MEDIANS = 20.0
STUCK_LONGEST = 2.0
"""Of the longest cycle so far, validation and saves included."""
CYCLES_REMEMBERED = 100


@dataclass(frozen=True)
class Limits:
    """In seconds; hang None: nothing ends the run."""

    frozen: float
    stuck: float
    hang: float | None


@dataclass(frozen=True)
class Finding:
    """An event to tell: `frozen`, `stuck`, or `alive` when a named rank came back."""

    event: str
    ranks: tuple[int, ...]
    message: str


class Judge:
    """Hears the beats of all ranks and looks what they say. For one thread at a time."""

    def __init__(
        self,
        limits: Limits,
        store: str,
        *,
        store_rank: int | None = None,
        state: Callable[[Beat], str] = lambda beat: "",
    ) -> None:
        """store: where beats lie, in words; store_rank: whose process that is, where a rank's.

        state: what more can be found out about a silent rank's process, in words.
        """
        self._limits, self._store, self._store_rank, self._state = limits, store, store_rank, state
        self._heard: list[Heard] = []
        self._silent: dict[int, float] = {}
        self._pending, self._unheard = 0.0, 0.0
        self._still, self._motionless = 0.0, 0.0
        self._cycles: deque[float] = deque(maxlen=CYCLES_REMEMBERED)
        self._num_cycles, self._longest, self._since_step = 0, 0.0, 0.0
        self._stuck_limit = limits.stuck
        self._frozen: set[int] = set()
        self._is_stuck = self._is_deaf = False
        self.cause: str | None = None
        """Why the run is to be ended."""

    def stepped(self, seconds: float) -> None:
        """A step of this rank ended, so long after the one before."""
        self._cycles.append(seconds)
        self._num_cycles += 1
        self._since_step = 0.0
        if self._num_cycles > EARLY_STEPS:
            self._longest = max(self._longest, seconds)
        if self._num_cycles % EARLY_STEPS == 0:
            usual = STUCK_MEDIANS * statistics.median(self._cycles)
            self._stuck_limit = max(self._limits.stuck, usual, STUCK_LONGEST * self._longest)

    def hear(self, heard: list[Heard]) -> None:
        """The newest beats of all ranks, in their order, just read."""
        before, self._heard = self._heard or heard, heard
        # One late answer of the store is no silence of everybody.
        passed = min(self._pending, self._limits.frozen / 2)
        for rank, (old, new) in enumerate(zip(before, heard, strict=True)):
            lives = old.number != new.number or new.is_over
            self._silent[rank] = 0.0 if lives else self._silent.get(rank, 0.0) + passed
            if old.place != new.place:
                self._still, self._is_stuck = 0.0, False
            if old.place != new.place or old.motion != new.motion:
                self._motionless = 0.0
        self._pending = self._unheard = 0.0

    def look(self, seconds: float) -> list[Finding]:
        """What is to be told, `seconds` of this process's running time after the last look."""
        self._pending += seconds
        self._unheard += seconds
        self._still += seconds
        self._motionless += seconds
        self._since_step += seconds
        found = [*self._look_at_store(), *self._look_at_silence(), *self._look_at_progress()]
        self._judge()
        return found

    @property
    def frozen(self) -> frozenset[int]:
        """Ranks that are silent now, as far as that is known."""
        deaf = {self._store_rank} if self._is_deaf and self._store_rank is not None else set()
        return frozenset(self._frozen | deaf)

    @property
    def stuck_limit(self) -> float:
        """Seconds without a border of a phase on any rank that are too many."""
        return self._stuck_limit * self._early

    @property
    def _early(self) -> float:
        return EARLY_TIMES if self._num_cycles < EARLY_STEPS else 1.0

    def _look_at_store(self) -> list[Finding]:
        if self._is_deaf:
            if self._unheard < self._limits.frozen:
                self._is_deaf = False
                self._still = self._motionless = 0.0
                return [Finding("alive", (), f"{self._store} answers again")]
            return []
        if self._unheard < self._limits.frozen * self._early:
            return []
        self._is_deaf = True
        message = f"{self._store} has not answered for {self._unheard:.1f} s"
        if self._store_rank is None or not self._heard:
            return [Finding("frozen", (), message)]
        beat = self._heard[self._store_rank].beat
        return [Finding("frozen", (beat.rank,), self._words([beat], f"; {message}"))]

    def _look_at_silence(self) -> list[Finding]:
        limit = self._limits.frozen * self._early
        silent = {rank for rank, seconds in self._silent.items() if seconds >= limit}
        new, back = silent - self._frozen, self._frozen - silent
        self._frozen = silent
        if back:
            self._still = self._motionless = 0.0  # the others waited for it
        found = []
        if new:
            longest = max(self._silent[rank] for rank in new)
            beats = [self._heard[rank].beat for rank in sorted(new)]
            message = self._words(beats, f"; no sign of life for {longest:.1f} s")
            found.append(Finding("frozen", tuple(sorted(new)), message))
        found += [
            Finding("alive", (rank,), f"{describe(self._heard[rank].beat)}: it lives again")
            for rank in sorted(back)
            if not self._heard[rank].is_over
        ]
        return found

    def _words(self, beats: list[Beat], end: str) -> str:
        states = {state for beat in beats[:1] if (state := self._state(beat))}
        return describe_all(beats) + end + "".join(f"; its process {state}" for state in states)

    def _look_at_progress(self) -> list[Finding]:
        """A frozen rank, or one that nobody hears of, is reason enough for the others to wait."""
        if self._still < self.stuck_limit or self._is_stuck or self.frozen:
            return []
        if all(one.is_over for one in self._heard):
            return []
        self._is_stuck = True
        ranks, reason = self._behind()
        named = [self._heard[rank].beat for rank in ranks]
        who = describe_all(named) or describe(self._heard[0].beat) + " as all"
        message = f"no rank came on for {self._still:.0f} s: {who}; {reason}"
        return [Finding("stuck", tuple(ranks), message)]

    def _behind(self) -> tuple[list[int], str]:
        at_rest = self._motionless >= self._limits.frozen
        return behind([one.beat for one in self._heard], at_rest=at_rest)

    def _judge(self) -> None:
        """Set `cause` when the run does not come on any more."""
        if self._limits.hang is None or self.cause is not None:
            return
        hang = self._limits.hang * self._early
        waited = min(self._still, self._motionless)
        if self._is_deaf:
            if min(self._unheard, self._since_step) < max(hang, self.stuck_limit):
                return
            self.cause = f"{self._store} has not answered for {self._unheard:.0f} s"
            if self._store_rank is not None and self._heard:
                self.cause = (
                    f"{describe(self._heard[self._store_rank].beat)} is frozen: {self.cause}"
                )
        elif self._frozen and waited >= hang:
            gone = [rank for rank in self._frozen if self._silent[rank] >= hang]
            if gone:
                beats = [self._heard[rank].beat for rank in sorted(gone)]
                self.cause = f"frozen for {waited:.0f} s: {describe_all(beats)}"
        elif self._is_stuck and waited >= max(hang, self.stuck_limit):
            ranks, reason = self._behind()
            if ranks:
                beats = [self._heard[rank].beat for rank in ranks]
                self.cause = f"stuck for {waited:.0f} s: {describe_all(beats)}; {reason}"
