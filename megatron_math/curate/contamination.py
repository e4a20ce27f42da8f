"""Drops records that hold a benchmark's problem, and counts for every benchmark and rule."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import IO, Any

from megatron_math.base.log import log
from megatron_math.base.records import Record
from megatron_math.curate.allow import AllowList
from megatron_math.curate.decontaminate import Rule, Searcher
from megatron_math.curate.dedup import text_of


class Contamination:
    """allowed_hits: a file for the hits that the allow-list lets pass, one object a line."""

    def __init__(
        self,
        searcher: Searcher,
        allowed: AllowList | None = None,
        allowed_hits: IO[str] | None = None,
    ) -> None:
        self._searcher, self._allowed, self._allowed_hits = searcher, allowed, allowed_hits
        self._dropped: Counter[tuple[str, Rule]] = Counter()
        self._let_pass: Counter[tuple[str, Rule]] = Counter()
        self._rows_found: dict[tuple[str, Rule], set[str]] = defaultdict(set)

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        texts = [text_of(record) for record in records]
        drops: list[dict[str, Any] | None] = []
        for record, text, hits in zip(records, texts, self._searcher.search(texts), strict=True):
            counted: list[dict[str, Any]] = []
            for hit in hits:
                entry = self._allowed.find(hit, record) if self._allowed else None
                explained = hit.explain(text)
                if entry is None:
                    counted.append(explained)
                    self._rows_found[hit.benchmark, hit.rule].add(hit.row)
                    continue
                self._let_pass[hit.benchmark, hit.rule] += 1
                if self._allowed_hits is not None:
                    row = {"source": record.source, "id": record.id} | explained
                    row["reason"] = entry.reason
                    self._allowed_hits.write(json.dumps(row) + "\n")
            for key in {(one["benchmark"], one["rule"]) for one in counted}:
                self._dropped[key] += 1
            drops.append(
                {"reason": "contaminated"} | counted[0] | {"hits": counted} if counted else None
            )
        return drops

    def report(self) -> list[dict[str, Any]]:
        """What was looked for and found, one entry a benchmark and rule."""
        searcher = self._searcher
        return [
            {
                "benchmark": name,
                "rule": rule,
                "rows": searcher.num_searched[name, rule],
                "rows not looked for": searcher.num_not_searched[name, rule],
                "rows found": len(self._rows_found[name, rule]),
                "dropped": self._dropped[name, rule],
                "hits allowed": self._let_pass[name, rule],
            }
            for name, rule in sorted(searcher.num_searched | searcher.num_not_searched)
        ]

    def allow_report(self) -> list[dict[str, Any]]:
        """Every line of the allow-list and the hits it let pass; a warning for those without."""
        if self._allowed is None:
            return []
        for entry in self._allowed.unused():
            log.warning(
                "the allow-list's line %d let nothing pass; remove it if its hit is gone",
                entry.line,
            )
        return [
            {key: value for key, value in vars(entry).items() if value is not None}
            | {"hits": self._allowed.used[entry.line]}
            for entry in self._allowed.entries
        ]
