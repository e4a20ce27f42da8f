"""Labels in a model's words: it is asked to choose one of a table's labels."""

from collections.abc import Sequence
from importlib import resources

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from megatron_math.base.records import Record
from megatron_math.curate.asking import generations
from megatron_math.curate.dedup import text_of
from megatron_math.curate.labels.keywords import KeywordTable
from megatron_math.engine.interface import Engine, Request

MOST_CHARACTERS = 4000
MOST_TOKENS = 16


class ModelRule:
    """Says the label of each record as a model does."""

    def __init__(self, name: str, table: KeywordTable, engine: Engine) -> None:
        self._name, self._labels = name, list(table.labels)
        text = resources.files(__package__).joinpath("label.en.md").read_text(encoding="utf-8")
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        self._template = environment.from_string(text)
        self._engine = engine

    def judge(self, records: Sequence[Record]) -> list[str | None]:
        """None where the answer names no label, or there is none."""
        said = generations(self._engine, [self._ask(record) for record in records], self._name)
        return [None if one is None else named(one.text, self._labels) for one in said]

    def _ask(self, record: Record) -> Request:
        text = text_of(record)[:MOST_CHARACTERS]
        text = text.encode("utf-8", "replace").decode()
        prompt = self._template.render(name=self._name, labels=self._labels, text=text)
        return Request(prompt.strip() + "\n", MOST_TOKENS)


def named(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first; of those that begin together the longest."""
    lower = answer.lower()
    places = [(lower.find(label.lower()), -len(label), label) for label in labels]
    return min((place for place in places if place[0] >= 0), default=(0, 0, None))[2]
