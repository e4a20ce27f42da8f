"""Hits that a person has read and let pass, each with the reason.

A file of JSON lines. `reason` says why; what else stands there must agree with the hit: `benchmark`
and `row`, `source` and `record`, `rule`. At least `row` (with its `benchmark`) or `record` (with
its `source`) is given, so that nobody allows a whole benchmark by a slip.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record, enumerate_rows
from megatron_math.curate.decontaminate import Hit, Rule

_KEYS = ("benchmark", "row", "source", "record", "rule", "reason")


@dataclass(frozen=True)
class Allowed:
    """One line of the file; None: any."""

    line: int
    reason: str
    benchmark: str | None = None
    row: str | None = None
    source: str | None = None
    record: str | None = None
    rule: str | None = None

    def covers(self, hit: Hit, record: Record) -> bool:
        found = (hit.benchmark, hit.row, hit.rule, record.source, record.id)
        asked = (self.benchmark, self.row, self.rule, self.source, self.record)
        return all(one is None or one == other for one, other in zip(asked, found, strict=True))


class AllowList:
    """used: how many hits each line has let pass."""

    def __init__(self, entries: Iterable[Allowed] = ()) -> None:
        self.entries = list(entries)
        self.used: Counter[int] = Counter()
        self._by_row: dict[tuple[str, str], list[Allowed]] = {}
        self._by_record: dict[tuple[str, str], list[Allowed]] = {}
        for entry in self.entries:
            if entry.benchmark is not None and entry.row is not None:
                self._by_row.setdefault((entry.benchmark, entry.row), []).append(entry)
            elif entry.source is not None and entry.record is not None:
                self._by_record.setdefault((entry.source, entry.record), []).append(entry)

    def find(self, hit: Hit, record: Record) -> Allowed | None:
        """The first entry that covers the hit, which is counted."""
        for entry in [
            *self._by_row.get((hit.benchmark, hit.row), ()),
            *self._by_record.get((record.source, record.id), ()),
        ]:
            if entry.covers(hit, record):
                self.used[entry.line] += 1
                return entry
        return None

    def unused(self) -> list[Allowed]:
        return [entry for entry in self.entries if not self.used[entry.line]]


def read_allow_list(path: Path, rows: Mapping[str, set[str]], sources: Iterable[str]) -> AllowList:
    """rows: ids of every benchmark that is looked for. Raises UserError, naming file and line, for
    an entry that could never match."""
    known_sources = set(sources)
    entries = []
    for line, value in enumerate_rows(path):
        where = f"{path}, line {line}"
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise UserError(f"{where}: an object of texts is expected, found {value!r:.80}")
        _check(value, where)
        benchmark, row, source = (value.get(key) for key in ("benchmark", "row", "source"))
        if benchmark is not None and benchmark not in rows:
            raise UserError(
                f"{where}: benchmark '{benchmark}' is not looked for; there are "
                f"{', '.join(sorted(rows)) or 'none'}"
            )
        if benchmark is not None and row is not None and row not in rows[benchmark]:
            raise UserError(f"{where}: benchmark {benchmark} has no row '{row}'")
        if source is not None and source not in known_sources:
            raise UserError(
                f"{where}: there is no source '{source}'; there are {', '.join(known_sources)}"
            )
        entries.append(Allowed(line=line, **value))
    return AllowList(entries)


def _check(value: dict[str, Any], where: str) -> None:
    unknown = sorted(set(value) - set(_KEYS))
    if unknown:
        raise UserError(f"{where}: unknown keys {', '.join(unknown)}; there are {', '.join(_KEYS)}")
    if not value.get("reason", "").strip():
        raise UserError(f"{where}: 'reason' must say why this is no leak")
    has_row, has_record = ({"benchmark", "row"} <= set(value)), ({"source", "record"} <= set(value))
    if not has_row and not has_record:
        raise UserError(
            f"{where}: name the hit by 'benchmark' and 'row', by 'source' and 'record', or by all "
            f"four; found {', '.join(sorted(value))}"
        )
    rule = value.get("rule")
    if rule is not None and rule not in get_args(Rule):
        raise UserError(
            f"{where}: there is no rule '{rule}'; there are {', '.join(get_args(Rule))}"
        )
