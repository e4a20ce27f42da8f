"""What was forgotten: loss of held-out texts and scores of general sets, before and after.

Reads 00_base/hf, 60_export/hf, the texts, predictions of the sets. Writes
70_evaluate/retention/<who>/<text>.json (losses of its documents) and 70_evaluate/retention.json.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file, write_json
from megatron_math.base.log import log
from megatron_math.base.proportions import Z
from megatron_math.base.records import read_records
from megatron_math.evaluate.predictions import read_predictions
from megatron_math.evaluate.retention_config import HeldOutText, RetentionConfig

FORMAT, VERSION = "megatron-math retention", 1
FOLDER, FILE = "retention", "retention.json"
WHO = ("before", "after")


class Reader(Protocol):
    """A model that reads texts: engine.losses.TextLosses."""

    def losses(self, texts: Sequence[str]) -> list[float | None]: ...


def measure_retention(
    config: RetentionConfig,
    folder: Path,
    models: Mapping[str, tuple[str, Path]],
    open_reader: Callable[[Path], Reader],
) -> Path:
    """Write `folder`/retention.json; returns its path.

    models: who -> (fingerprint, Hugging Face folder), of those that are there. open_reader: makes
    the reader of a folder; called only where losses are missing. Raises UserError for a text of
    fewer than two documents.
    """
    texts = {name: sample_documents(name, text) for name, text in config.texts.items()}
    losses: dict[str, dict[str, list[float | None]]] = {name: {} for name in texts}
    for who, (fingerprint, model) in models.items():
        readers: list[Reader] = []
        for name, documents in texts.items():
            path = folder / FOLDER / who / f"{name}.json"
            asked = {
                "model": fingerprint,
                "text_sha256": sha256_file(config.texts[name].path),
                "limit": config.texts[name].limit,
                "max_tokens": config.max_tokens,
            }
            if not path.is_file() or read_json(path)["asked"] != asked:
                readers = readers or [open_reader(model)]
                found = readers[0].losses(documents)
                write_json(path, {"asked": asked, "losses": found})
            losses[name][who] = read_json(path)["losses"]
    path = folder / FILE
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "max_tokens": config.max_tokens,
        "texts": [_text(name, len(texts[name]), losses[name]) for name in texts],
        "sets": [_set(name, folder) for name in config.sets],
    }
    write_json(path, facts)
    for row in facts["texts"]:
        _show(row)
    return path


def check_sets(config: RetentionConfig, asked: Sequence[str]) -> None:
    """UserError for a set that nobody is asked: before hours of work, and not after."""
    if unknown := [name for name in config.sets if name not in asked]:
        raise UserError(
            f"evaluate.retention.sets: nobody is asked {', '.join(unknown)}; put it among "
            f"evaluate.benchmarks, which are {', '.join(asked)}"
        )


def sample_documents(name: str, text: HeldOutText) -> list[str]:
    """At most `limit` documents, spread evenly over the file."""
    if text.path.suffix in (".txt", ".md", ".tex"):
        whole = text.path.read_text(encoding="utf-8", errors="replace")
        documents = [part.strip() for part in whole.split("\n\n") if part.strip()]
        if len(documents) < 2:  # one block: its lines
            documents = [line.strip() for line in whole.splitlines() if line.strip()]
    else:
        documents = [record.render() for record in read_records(text.path)]
    if len(documents) < 2:
        raise UserError(
            f"evaluate.retention.texts.{name}: {text.path} has {len(documents)} documents, which "
            f"say nothing about others; give a text of at least two"
        )
    count = min(text.limit, len(documents))
    return [documents[number * len(documents) // count] for number in range(count)]


def _text(name: str, documents: int, losses: Mapping[str, Sequence[float | None]]) -> Any:
    """Means over documents that every model could read (two tokens and more)."""
    rows = list(zip(*losses.values(), strict=True))
    read = [row for row in rows if all(loss is not None and math.isfinite(loss) for loss in row)]
    means = dict.fromkeys(losses, None) if not read else {
        who: statistics.fmean(column)
        for who, column in zip(losses, zip(*read, strict=True), strict=True)
    }  # fmt: skip
    told = {"text": name, "documents": documents, "read": len(read)}
    return told | {"loss": means, "change": _change(read) if len(losses) == 2 else None}


def _change(rows: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """The second model's loss minus the first's, document by document: mean, 95 % interval."""
    if len(rows) < 2:
        return None
    changes = [after - before for before, after in rows]
    mean = statistics.fmean(changes)
    reach = Z * statistics.stdev(changes) / math.sqrt(len(changes))
    low, high = mean - reach, mean + reach
    verdict = "unclear" if low <= 0 <= high else "forgotten" if mean > 0 else "better"
    return {
        "mean": mean,
        "interval95": [low, high],
        "worse": sum(change > 0 for change in changes),
        "verdict": verdict,
    }


def _set(name: str, folder: Path) -> dict[str, Any]:
    """A benchmark's scores as they stand, and what was known before and is no more."""
    paths = {who: folder / who / name / "predictions.jsonl" for who in WHO}
    right = {
        who: {row["id"]: bool(row["correct"]) for row in read_predictions(path)}
        for who, path in paths.items()
        if path.is_file()
    }
    told: dict[str, Any] = {
        "benchmark": name,
        "problems": {who: len(rows) for who, rows in right.items()},
        "right": {who: sum(rows.values()) for who, rows in right.items()},
        "lost": None,
        "learned": None,
    }
    if len(right) == 2:
        before, after = right.values()
        shared = before.keys() & after.keys()
        told["lost"] = sum(before[key] and not after[key] for key in shared)
        told["learned"] = sum(after[key] and not before[key] for key in shared)
    return told


def _show(row: dict[str, Any]) -> None:
    said = ", ".join(
        f"{who} {'missing' if loss is None else f'{loss:.3f}'}" for who, loss in row["loss"].items()
    )
    log.info("held-out loss of %s: %s (%d documents)", row["text"], said, row["read"])
