"""Labels as a sieve: they are written into `meta.labels`, counted, and some may not stay."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.records import Record
from megatron_math.curate.labels.by_model import ModelRule
from megatron_math.curate.labels.config import LabelName, LabelsConfig, NamedConfig
from megatron_math.curate.labels.difficulty import DifficultyRule
from megatron_math.curate.labels.keywords import KeywordRule, read_table
from megatron_math.engine.interface import Engine

NONE = "none"


class Labels:
    """Labels every record that reaches it, and drops those without a wanted one.

    engines: of the labels that a model chooses.
    """

    def __init__(self, config: LabelsConfig, engines: Mapping[str, Engine]) -> None:
        self._keep = config.keep
        self._difficulty = None if config.difficulty is None else DifficultyRule(config.difficulty)
        named: dict[LabelName, NamedConfig | None] = {"topic": config.topic, "stage": config.stage}
        self._named: dict[LabelName, KeywordRule | ModelRule] = {}
        for name, asked in named.items():
            if asked is None:
                continue
            table = read_table(name, asked.table)
            by_model = asked.engine is not None
            self._named[name] = (
                ModelRule(name, table, engines[name]) if by_model else KeywordRule(table)
            )
        self._counts: dict[str, dict[str, Counter[str]]] = {}

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        labels: list[dict[str, str | None]] = [{} for _ in records]
        if self._difficulty is not None:
            judged = self._difficulty.judge(records)
            for record, own, (difficulty, known) in zip(records, labels, judged, strict=True):
                own["difficulty"] = difficulty
                record.meta.update(known)
        for name, rule in self._named.items():
            for own, label in zip(labels, rule.judge(records), strict=True):
                own[name] = label
        return [self._settle(*pair) for pair in zip(records, labels, strict=True)]

    def finish(self, folder: Path, sources: dict[str, Any]) -> None:
        """Add to the counts of each source how many records got which label."""
        for source, by_name in self._counts.items():
            sources[source]["labels"] = {
                name: dict(sorted(counts.items())) for name, counts in by_name.items()
            }

    def _settle(self, record: Record, labels: dict[str, str | None]) -> dict[str, Any] | None:
        counts = self._counts.setdefault(record.source, {})
        for name, label in labels.items():
            counts.setdefault(name, Counter())[label or NONE] += 1
        record.meta["labels"] = {name: label for name, label in labels.items() if label is not None}
        for name, wanted in self._keep.items():
            if labels[name] not in wanted:
                return {"reason": f"label {name}", "label": labels[name]}
        return None
