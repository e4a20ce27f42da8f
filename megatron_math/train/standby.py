"""The local ranks of a run: `python -m megatron_math.train.standby N run.yaml ...` forks them.

`megatron-math train` starts it; N is the number of ranks, the rest is what each of them is given
(`__main__.py`). Loads what a rank needs and waits for the ranks. When one dies, all are forked
again and go on from the newest good checkpoint, `guards.restarts` times without a new one.
"""

import importlib
import signal
import sys
from pathlib import Path

from megatron_math.base.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_STOPPED,
    StoppedOnRequest,
    UserError,
)
from megatron_math.base.log import log, set_up_logging
from megatron_math.checkpoint.folders import complete_checkpoints
from megatron_math.device.standby import (
    Death,
    Tell,
    fork_ranks,
    leave_gpu_alone,
    let_gpu_be_used,
    unfit,
)
from megatron_math.train import __main__ as rank
from megatron_math.train.config import CheckpointConfig, TrainConfig
from megatron_math.train.guard_config import GuardConfig
from megatron_math.train.run import training_folder
from megatron_math.train.watch import cause_of, first_words
from megatron_math.watch.launches import KILLED, Ledger, end_launch, num_launches, rows_behind

LOADED = (
    "megatron_math.checkpoint.saver",
    "megatron_math.checkpoint.state",
    "megatron_math.model.build",
    "megatron_math.train.loop",
    "megatron_math.train.optimizer",
    "megatron.core.dist_checkpointing.strategies.torch",
    "torch._dynamo",  # 2 of the seconds that torch takes: its optimizers ask for it when made
)
"""With them comes all that a rank of a usual run imports."""


class Restarts:
    """Whether ranks are started again, for one job. `folder`: of the training, in which a death is
    written down."""

    def __init__(self, folder: Path, most: int, world: int) -> None:
        self._folder, self._most, self._world = folder, most, world
        self._count = 0
        self._last: tuple[object, ...] = ()
        self._checkpoint = self._newest()
        self._begun = num_launches(folder)

    def again(self, death: Death) -> bool:
        """Not for bad input, not for the same error at the same place, and not for ever."""
        if death.code in (EXIT_BAD_INPUT, EXIT_STOPPED):
            return False
        checkpoint, place = self._newest(), (death.words or death.code, self._reached())
        if checkpoint != self._checkpoint:
            self._checkpoint, self._count, self._last = checkpoint, 0, ()
        since = f"since {checkpoint}" if checkpoint else "without a checkpoint"
        # SIGKILL comes from outside and says nothing of the program.
        if death.code != -signal.SIGKILL and place == self._last:
            log.error("%s, twice at iteration %s %s: no restart mends it",
                      cause(death), place[1], since)  # fmt: skip
            return False
        if self._count >= self._most:
            log.error("%s; restarts %s: %d, and guards.restarts allows no more",
                      cause(death), since, self._count)  # fmt: skip
            return False
        self._last, self._count = place, self._count + 1
        log.warning("%s; restart %d of %d %s",
                    cause(death), self._count, self._most, since)  # fmt: skip
        return True

    def ended(self, death: Death) -> None:
        """Writes the cause, in place of what the last rank took for it."""
        if num_launches(self._folder) == self._begun:  # it came before its launch began
            if death.code == EXIT_BAD_INPUT:
                return
            Ledger(self._folder, world=self._world)
        self._begun = num_launches(self._folder)
        end_launch(self._folder, self._begun - 1, cause(death), self._reached())

    def _newest(self) -> str | None:
        newest = complete_checkpoints(self._folder / "checkpoints")[-1:]
        return newest[0].folder.name if newest else None

    def _reached(self) -> int | None:
        row = rows_behind(self._folder / "metrics.jsonl", sys.maxsize)
        return None if row is None else row["iteration"]


def cause(death: Death) -> str:
    """As launches.jsonl has it."""
    if death.code < 0:
        return f"{KILLED}: rank {death.rank} by {signal.Signals(-death.code).name}"
    if death.words is None:
        return f"error: rank {death.rank} ended with exit code {death.code}"
    return f"{death.words} (rank {death.rank})"


def as_rank(arguments: list[str], tell: Tell, *, saves_beside: bool) -> int:
    """What a fork does."""
    from megatron_math.checkpoint import saver, writer

    let_gpu_be_used()
    if saves_beside:
        saver.at_hand.append(writer.ForkedWriter())

    def say(error: BaseException) -> None:
        stopped = EXIT_STOPPED if isinstance(error, StoppedOnRequest) else EXIT_FAILED
        tell(EXIT_BAD_INPUT if isinstance(error, UserError) else stopped, cause_of(error))

    first_words.append(say)
    try:
        return rank.main(arguments)
    except BaseException as error:
        say(error)
        raise


def main() -> int:
    """Returns what `megatron-math train` ends with."""
    world, arguments = int(sys.argv[1]), sys.argv[2:]
    set_up_logging()
    road = rank.read_road(arguments)
    train = road.section("train", TrainConfig)
    guards = road.section("guards", GuardConfig)
    own_program = [sys.executable, "-m", "megatron_math.train", *arguments]
    if train.profile is not None and train.profile.tool == "nsys":
        reason: str | None = "nsys follows programs, not forks"
    else:
        leave_gpu_alone()
        for name in LOADED:
            importlib.import_module(name)
        if train.tensorboard:
            importlib.import_module("torch.utils.tensorboard")
        reason = unfit()
    if reason is not None:
        log.info("each rank loads for itself: %s", reason)
    most = 0 if train.mock_data else guards.restarts  # it would begin anew
    restarts = Restarts(training_folder(road, train), most, world)
    saves_beside = road.section("checkpoint", CheckpointConfig).asynchronous and not train.mock_data
    return fork_ranks(
        own_program if reason else lambda tell: as_rank(arguments, tell, saves_beside=saves_beside),
        world,
        restarts.again,
        after_death=restarts.ended,
    )


if __name__ == "__main__":
    sys.exit(main())
