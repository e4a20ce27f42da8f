"""Drops records that hold a benchmark's problem, and counts for every benchmark and rule."""

import json
from collections import Counter, defaultdict
from collections.abc import Container
from typing import IO, Any

from megatron_math.base.log import log
from megatron_math.curate.allow import AllowList
from megatron_math.curate.decontaminate import Rule, Searcher
from megatron_math.curate.dedup import text_of
from megatron_math.curate.lines import Lines
from megatron_math.native.texts import Int64Array


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

    def judge(
        self, lines: Lines, found: Int64Array, is_gone: Container[int]
    ) -> dict[int, dict[str, Any]]:
        """found: hits of these records, as Searcher.search_flat has them. Of the records that are
        not gone already and have a hit that counts: row -> the fields of the dropped record."""
        drops = {}
        for row in sorted(set(found[:, 0].tolist())):
            if row in is_gone:
                continue
            counted = self._judge(lines, row, found[found[:, 0] == row])
            if counted:
                drops[row] = {"reason": "contaminated"} | counted[0] | {"hits": counted}
        return drops

    def _judge(self, lines: Lines, row: int, found: Int64Array) -> list[dict[str, Any]]:
        """The hits that count."""
        record = lines.record(row)
        text = text_of(record)
        counted: list[dict[str, Any]] = []
        for hit in self._searcher.hits_in(text, found):
            entry = self._allowed.find(hit, record) if self._allowed else None
            explained = hit.explain(text)
            if entry is None:
                counted.append(explained)
                self._rows_found[hit.benchmark, hit.rule].add(hit.row)
                continue
            self._let_pass[hit.benchmark, hit.rule] += 1
            if self._allowed_hits is not None:
                said = {"source": record.source, "id": record.id} | explained
                self._allowed_hits.write(json.dumps(said | {"reason": entry.reason}) + "\n")
        for key in {(one["benchmark"], one["rule"]) for one in counted}:
            self._dropped[key] += 1
        return counted

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
