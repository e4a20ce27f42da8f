"""Was a benchmark looked for in the training text, and what was found? To stand beside its score.

Reads stats.json of 20_curate: one row a benchmark and rule.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json

KEYS = {
    "rule": "rule",
    "rows": "rows",
    "not_looked_for": "rows not looked for",
    "found": "rows found",
    "dropped": "dropped",
    "allowed": "hits allowed",
}


def set_of(exam: str) -> str:
    """The benchmark of an exam; a protocol that asks in several ways names them gsm8k-5shot."""
    return re.sub(r"-\d+shot$", "", exam)


def read_contamination(folders: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """By benchmark, what every finished curation (name -> its 20_curate) found."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, folder in folders.items():
        if not (folder / "DONE").is_file():
            continue
        for row in read_json(folder / "stats.json").get("benchmarks") or []:
            told = {key: row.get(given) for key, given in KEYS.items()}
            found.setdefault(row["benchmark"], []).append({"curation": name} | told)
    return found
