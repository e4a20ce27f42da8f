"""Three small models that say how good a text is; higher is better, None: it cannot be said."""

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record
from megatron_math.curate.asking import generations
from megatron_math.curate.dedup import text_of
from megatron_math.curate.quality.config import LinearConfig, LossConfig, QuestionConfig
from megatron_math.curate.recall.features import BagReader
from megatron_math.curate.recall.linear import TrainingTexts, probability
from megatron_math.curate.recall.pages import blocks, chosen_blocks, draw, number_of
from megatron_math.engine.interface import Engine, Generation, Request

LEAST_TEXTS = 10


class Scorer(Protocol):
    """Gives each record a score."""

    def scores(self, records: Sequence[Record]) -> list[float | None]: ...


class LinearScorer:
    """Learns at once what tells the records of `good` from those of `bad`."""

    def __init__(
        self, config: LinearConfig, good: list[Path], bad: list[Path], training: Path, seed: int
    ) -> None:
        known = config.classifier
        with TrainingTexts(training, BagReader(known.longest_run, known.bits)) as texts:
            for name, label, paths in (("good", 1, good), ("bad", 0, bad)):
                count = sum(len(block) for block in blocks(paths))
                chosen = draw(count, known.texts, f"quality {seed} {name}")
                for records in chosen_blocks(paths, chosen):
                    texts.add([text_of(record) for record in records], label)
                if texts.num_texts(label) < LEAST_TEXTS:
                    raise UserError(
                        f"curate.quality.linear.{name}: {texts.num_texts(label)} records with "
                        f"words; give at least {LEAST_TEXTS}"
                    )
            self._linear, self.held_out = texts.train(
                epochs=known.epochs,
                learning_rate=known.learning_rate,
                min_count=known.min_count,
                seed=number_of(f"quality {seed}"),
            )
        self._reader = self._linear.reader()

    def scores(self, records: Sequence[Record]) -> list[float | None]:
        bags = self._reader.read([text_of(record) for record in records])
        return [float(score) for score in probability(self._linear.logits(bags))]


class LossScorer:
    """Minus the mean loss under a causal language model. Loads torch."""

    def __init__(self, config: LossConfig) -> None:
        from megatron_math.engine.losses import TextLosses

        self._losses = TextLosses(
            config.hf,
            dtype=config.dtype,
            max_tokens=config.max_tokens,
            batch_tokens=config.batch_tokens,
        )

    def scores(self, records: Sequence[Record]) -> list[float | None]:
        losses = self._losses.losses([record.render() for record in records])
        return [None if loss is None else -loss for loss in losses]


class QuestionScorer:
    """The probability of yes, where the model's answer begins with yes or no."""

    def __init__(self, config: QuestionConfig, engine: Engine) -> None:
        self._config, self._engine = config, engine
        if config.prompt is None:
            own = resources.files(__package__).joinpath("question.en.md")
            text = own.read_text(encoding="utf-8")
        else:
            text = config.prompt.read_text(encoding="utf-8")
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        self._template = environment.from_string(text)

    def scores(self, records: Sequence[Record]) -> list[float | None]:
        said = generations(self._engine, [self._ask(record) for record in records], "quality")
        return [None if one is None else probability_of_yes(one) for one in said]

    def _ask(self, record: Record) -> Request:
        text = text_of(record)[: self._config.max_characters].encode("utf-8", "replace").decode()
        return Request(self._template.render(text=text).strip() + "\n", 2, logprobs=True)


def probability_of_yes(generation: Generation) -> float | None:
    """That of the first token, or what is left of it where the answer is no; without
    log-probabilities 1 or 0. None where the answer is neither."""
    answer = generation.text.strip().lower()
    if not answer.startswith(("yes", "no", "是", "否")):
        return None
    sure = math.exp(generation.logprobs[0]) if generation.logprobs else 1.0
    return sure if answer.startswith(("yes", "是")) else 1 - sure
