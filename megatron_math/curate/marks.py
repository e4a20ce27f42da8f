"""What is written upon the records that are left, and may drop some of them: labels and scores."""

import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from megatron_math.curate.labels.run import Labels
from megatron_math.curate.order import Order
from megatron_math.curate.quality.config import QualityConfig
from megatron_math.curate.quality.run import Quality
from megatron_math.curate.quality.scorers import LinearScorer, LossScorer, QuestionScorer, Scorer
from megatron_math.curate.sieves import Sieve
from megatron_math.engine.interface import Engine
from megatron_math.engine.open import open_engine


class Mark(Sieve, Protocol):
    """A sieve that goes over what it wrote once more."""

    def finish(self, folder: Path, sources: dict[str, Any]) -> None:
        """After all records: bring the files in `folder` and the counts by source up to date."""
        ...


def open_marks(order: Order, files: ExitStack) -> list[Mark]:
    """The marks that are asked for, in their order. files: what is closed after them."""
    config, folder = order.config, order.stage.folder
    marks: list[Mark] = []
    if config.labels is not None:
        engines: dict[str, Engine] = {}
        for name, named in (("topic", config.labels.topic), ("stage", config.labels.stage)):
            if named is not None and named.engine is not None:
                engine = open_engine(named.engine, folder / "labels" / name)
                engines[name] = files.enter_context(engine)
        marks.append(Labels(config.labels, engines))
    if config.quality is not None:
        marks.append(Quality(config.quality, _scorer(order, config.quality, files)))
    return marks


def _scorer(order: Order, config: QualityConfig, files: ExitStack) -> Scorer:
    folder = order.stage.folder / "quality"
    if config.linear is not None:
        return LinearScorer(
            config.linear,
            order.examples["quality good"],
            order.examples["quality bad"],
            folder / f".training.{uuid.uuid4().hex}",
            order.road.seed,
        )
    if config.loss is not None:
        return LossScorer(config.loss)
    assert config.question is not None
    engine = files.enter_context(open_engine(config.question.engine, folder))
    return QuestionScorer(config.question, engine)
