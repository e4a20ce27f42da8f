"""The stages of a run (cpt, anneal, sft): which iterations, under which settings, begun with what.

A stage under `train.stages` has a schedule of its own. Stages that are not named there share one:
JiuZhang3.0's warm-up, plateau and decay run over its problems and its SFT data in one go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.checkpoint.folders import Checkpoint, complete_checkpoints, open_checkpoint
from megatron_math.dataset.plan import Plan
from megatron_math.train.config import StageConfig, TrainConfig
from megatron_math.train.schedule import learning_rate

VALIDATION = "validation.json"
"""In a checkpoint that a stage may be begun with: its loss on held-out samples."""


@dataclass(frozen=True)
class TrainStage:
    """A stage of the plan: iterations `first` to `end` (not included), counted over the run."""

    name: str
    first: int
    end: int
    train: TrainConfig
    """The run's settings with this stage's own above them."""
    start: StageConfig
    schedule_first: int
    """Where its schedule began: at `first`, or where the stages that share it did."""
    schedule_end: int

    def learning_rate(self, iteration: int) -> float:
        """The rate of step `iteration`, counted from 0 over the run."""
        done = iteration - self.schedule_first
        return learning_rate(self.train, done, self.schedule_end - self.schedule_first)


def stages_of(train: TrainConfig, plan: Plan) -> list[TrainStage]:
    """The plan's stages in order. UserError for settings of a stage that cannot have them."""
    own = train.stages or {}
    names = [stage.name for stage in plan.stages]
    check_names(train, names)
    begun = plan.history.iteration if plan.history else 0
    unnamed = StageConfig.model_validate({})
    _check_first(own.get(names[0]), names[0], is_continued=plan.history is not None)
    stages: list[TrainStage] = []
    first, shared_first = begun, 0
    for stage in plan.stages:
        settings = train.of_stage(stage.name)
        end = first + -(-stage.num_samples // settings.global_batch_size)
        if stage.name in own:
            shared_first = end
        start = own.get(stage.name, unnamed)
        schedule_first = first if stage.name in own else shared_first
        stages.append(TrainStage(stage.name, first, end, settings, start, schedule_first, end))
        first = end
    return [_with_schedule_end(number, stages, own) for number in range(len(stages))]


def check_names(train: TrainConfig, names: Sequence[str]) -> None:
    """`train.stages` may name only stages of blend. Raises UserError."""
    for name in train.stages or {}:
        if name not in names:
            raise UserError(
                f"train.stages names '{name}', and the stages of blend are {', '.join(names)}"
            )


def _with_schedule_end(
    number: int, stages: list[TrainStage], own: dict[str, StageConfig]
) -> TrainStage:
    """A shared schedule ends where the last stage before the next named one does."""
    stage, end = stages[number], stages[number].end
    if stage.name not in own:
        for later in stages[number + 1 :]:
            if later.name in own:
                break
            end = later.end
    return TrainStage(**{**vars(stage), "schedule_end": end})


def _check_first(start: StageConfig | None, name: str, *, is_continued: bool) -> None:
    if start is None:
        return
    if start.weights != "last":
        raise UserError(
            f"train.stages.{name}.weights: {start.weights} has no effect in the first stage; "
            f"leave it out"
        )
    if start.optimizer == "fresh" and not is_continued:
        raise UserError(
            f"train.stages.{name}.optimizer: fresh has no effect in the first stage, whose "
            f"optimizer is fresh; leave it out"
        )


def stop_iteration(train: TrainConfig, stages: Sequence[TrainStage]) -> int | None:
    """Where `train.stop_after` stops: behind that iteration, or behind that stage."""
    if not isinstance(train.stop_after, str):
        return train.stop_after
    ends = {stage.name: stage.end for stage in stages}
    if train.stop_after not in ends:
        raise UserError(
            f"train.stop_after: no stage is called '{train.stop_after}'; give an iteration or "
            f"one of {', '.join(ends)}"
        )
    return ends[train.stop_after]


def candidates(save: Path, stages: Sequence[TrainStage], number: int) -> list[Checkpoint]:
    """Checkpoints of the stage before stage `number` that it may begin with, oldest first."""
    before, best_of = stages[number - 1], stages[number].start.best_of
    found = [
        checkpoint
        for checkpoint in complete_checkpoints(save)
        if before.first < (checkpoint.iteration or 0) <= before.end
        and (checkpoint.folder / VALIDATION).is_file()
    ]
    return found if best_of is None else found[-best_of:]


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The one with the lowest validation loss, the newest among equals; there is one at least."""
    return min(reversed(checkpoints), key=lambda checkpoint: checkpoint.read(VALIDATION)["loss"])


def best_iterations(save: Path, number: int) -> list[int]:
    """Of the `number` checkpoints with the lowest validation loss; of equals the newer ones."""
    measured = [
        checkpoint
        for checkpoint in complete_checkpoints(save)
        if (checkpoint.folder / VALIDATION).is_file()
    ]
    measured.sort(key=lambda one: (one.read(VALIDATION)["loss"], -(one.iteration or 0)))
    return [checkpoint.iteration or 0 for checkpoint in measured[:number]]


def chosen(save: Path, stages: Sequence[TrainStage], number: int) -> Checkpoint:
    """The checkpoint that stage `number` begins with, verified. UserError where it is lost."""
    found = candidates(save, stages, number)
    if not found:
        raise UserError(
            f"stage {stages[number].name} begins with the best checkpoint of "
            f"{stages[number - 1].name}, and {save} has none of it with a {VALIDATION}; bring it "
            f"back, or train that stage again"
        )
    return open_checkpoint(best(found).folder)


def kept_for_later(save: Path, stages: Sequence[TrainStage], iteration: int) -> tuple[int, ...]:
    """Iterations whose checkpoints must stay although newer ones are enough to continue.

    While a stage runs these are what the next one may begin with; afterwards what it began with,
    so that a run that falls back to the border chooses the same again.
    """
    kept: list[Checkpoint] = []
    for number, stage in enumerate(stages):
        if stage.start.weights != "best":
            continue
        found = candidates(save, stages, number)
        is_chosen = iteration > stage.first or stage.start.best_of is None
        kept += [best(found)] if found and is_chosen else found
    return tuple(checkpoint.iteration or 0 for checkpoint in kept)
