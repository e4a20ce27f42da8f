"""From seeds to training tokens: what each step of a synthesis by a model left, and what it cost.

Reads stats.json, problems.jsonl and drops/ of 10_synthesize, and the stages that used its records.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json

NUM_EXAMPLES = 3
LONGEST_CHARACTERS = 2000
COST_KEYS = ("requests", "answered", "calls", "prompt_tokens", "new_tokens", "money")
LINEAGE_KEYS = ("seed_id", "stage", "excerpt", "model", "prompt_sha256", "verdicts")


def is_by_model(folder: Path) -> bool:
    """Whether a method that asks and checks wrote 10_synthesize, and not templates."""
    return "seeds" in read_json(folder / "stats.json")


def read_funnel(
    folder: Path,
    curation: dict[str, Any] | None,
    indexes: Sequence[dict[str, Any]] | None,
    sources: dict[str, Any],
) -> dict[str, Any]:
    """Steps with how many each left, rejects by reason, verdicts, cost by role, examples.

    sources: of the `curate` section, by name; those that take this stage's records count.
    """
    stats = read_json(folder / "stats.json")
    steps = [
        ("seeds", stats.get("seeds")),
        ("candidates that were read", stats.get("parsed")),
        ("verified", stats.get("verified")),
        ("not seen before", _difference(stats.get("verified"), stats.get("duplicates"))),
        ("accepted", stats.get("accepted")),
    ]
    own = {name for name, source in sources.items() if source.get("stage") == folder.name}
    if curation is not None and own:
        kept = [row["kept"] for row in curation["sources"] if row["source"] in own]
        steps.append(("left by curation", sum(kept)))
    if indexes and (tokens := [row["tokens"] for row in indexes if row["source"] in own]):
        steps.append(("tokens", sum(tokens)))
    return {
        "method": stats["method"],
        "steps": [{"step": name, "left": number} for name, number in steps],
        "accepted_per_seed": stats.get("accepted_per_seed"),
        "disputed": stats.get("disputed"),
        "rejects": stats.get("rejects") or {},
        "verdicts": [
            {"verdict": name, **{key: counts.get(key, 0) for key in ("true", "false", "null")}}
            for name, counts in (stats.get("verdicts") or {}).items()
        ],
        "by_steps": stats.get("by_steps") or {},
        "cost": [
            {"role": role, **{key: cost.get(key) for key in COST_KEYS}}
            for role, cost in (stats.get("cost") or {}).items()
        ],
        "new_tokens_per_accepted": stats.get("new_tokens_per_accepted"),
        "audit": {
            key: (stats.get("audit") or {}).get(key)
            for key in ("rejection_rate", "false_rejection_rate")
        }
        if stats.get("audit")
        else None,
        "accepted": _examples(folder / "problems.jsonl", ("problem", "solution", "answer")),
        "dropped": _examples(folder / "drops" / "problems.jsonl", ("problem", "solution", "raw")),
    }


def _difference(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else whole - part


def _examples(path: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The first rows of a file, their texts and where they come from."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, NUM_EXAMPLES)]
    return [
        {
            "id": row.get("id"),
            "reason": row.get("reason"),
            "texts": {key: _cut(row[key]) for key in texts if isinstance(row.get(key), str)},
            "lineage": {
                key: value
                for key in LINEAGE_KEYS
                if (value := (row.get("meta") or {}).get(key, row.get(key))) is not None
            },
        }
        for row in rows
    ]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CHARACTERS else text[:LONGEST_CHARACTERS] + " ..."
