"""What the model was taught with: problems written, records curated, tokens indexed, the mix.

Reads stats.json of 10_synthesize, 20_curate and 40_blend, and the index sidecars of 30_index.
"""

from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json

BLEND_STAGE_KEYS = ("stage", "sequence_length", "samples", "tokens", "redistributed")
BLEND_SOURCE_KEYS = (
    "source", "groups", "share_asked", "share_realised", "tokens_used", "tokens_available",
    "epochs", "epochs_before", "most_repeated", "samples", "padding_share",
)  # fmt: skip


def read_synthesis(folder: Path) -> dict[str, Any]:
    """Counts of the problems written for training and held out, and of those refused."""
    stats = read_json(folder / "stats.json")
    heldout = stats.get("heldout") or {}
    written = {"problems": stats.get("by_level"), "heldout": heldout.get("by_level")}
    levels = {level for counts in written.values() for level in counts or {}}
    return {
        "problems": stats.get("problems"),
        "mean_words": stats.get("mean_words"),
        "heldout": heldout.get("problems"),
        "dropped": stats.get("dropped"),
        "texts_in_training": (stats.get("written") or {}).get("texts_in_training"),
        "refused": stats.get("draws_rejected") or {},
        "levels": [
            {"level": level}
            | {
                kind: None if counts is None else counts.get(level, 0)
                for kind, counts in written.items()
            }
            for level in sorted(levels)
        ],
    }


def read_curation(folder: Path) -> dict[str, Any]:
    """Records read, kept and dropped by source and reason; benchmarks that were looked for."""
    stats = read_json(folder / "stats.json")
    sources = stats.get("sources") or {}
    return {
        "read": stats.get("read"),
        "kept": stats.get("kept"),
        "dropped": stats.get("dropped"),
        "sources": [
            {
                "source": name,
                **{key: counts.get(key) for key in ("read", "kept", "dropped")},
                "reasons": counts.get("reasons") or {},
            }
            for name, counts in sources.items()
        ],
        "benchmarks": [
            {key: row.get(key) for key in ("benchmark", "rule", "rows", "dropped")}
            for row in stats.get("benchmarks") or []
        ],
    }


def read_indexes(folder: Path) -> list[dict[str, Any]]:
    """Documents, tokens and text bytes of every index in `folder`."""
    indexes = []
    for path in sorted(folder.glob("*_document.json")):
        sidecar = read_json(path)
        counts = {key: sidecar.get(key) for key in ("documents", "tokens", "text_bytes")}
        tokens, text_bytes = counts["tokens"], counts["text_bytes"]
        indexes.append(
            {"source": path.name.rsplit("_", 2)[0], **counts}
            | {"bytes_per_token": text_bytes / tokens if tokens and text_bytes else None}
        )
    return indexes


def read_blend(folder: Path) -> list[dict[str, Any]]:
    """One entry a stage of the plan, with one row a source. Shares are of tokens, not padding."""
    return [
        {key: stage.get(key) for key in BLEND_STAGE_KEYS}
        | {"sources": [{k: row.get(k) for k in BLEND_SOURCE_KEYS} for row in stage["sources"]]}
        for stage in read_json(folder / "stats.json").get("stages") or []
    ]
