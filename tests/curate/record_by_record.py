"""The readable twin of curate's passes: one record after another, all by Python.

Near-duplicates are settled by the room itself, from texts in memory.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base.records import Record, enumerate_rows, record_from_row
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.decontaminate import Searcher
from megatron_math.curate.dedup import normal_url, text_of
from megatron_math.curate.near_duplicates import NearDuplicates, open_hasher
from megatron_math.native.reference_text_digests import digest
from megatron_math.native.row_search import flatten

Item = tuple[Record, bytes]


def read_items(source: str, path: Path) -> Iterator[Item]:
    """Every record, and the line that stays of it."""
    lines: list[bytes] = []
    if path.suffix != ".parquet":
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            lines = file.read().split(b"\n")
    for number, row in enumerate_rows(path):
        name = f"{path.name}:{number}"
        where = f"{path}, line {number}"
        record = record_from_row(row, default_id=name, default_source=source, where=where)
        if path.suffix == ".parquet":
            line = json.dumps(record.to_json(), ensure_ascii=False).encode()
        elif "id" in row:
            line = lines[number - 1]
        else:
            before, after = lines[number - 1].split(b"{", 1)
            line = before + b'{"id": ' + json.dumps(name).encode() + b", " + after
        yield replace(record, source=source), line


def curate(
    folder: Path, config: CurateConfig, files: dict[str, list[Path]], searcher: Searcher | None
) -> dict[str, bytes]:
    """Path below the stage's folder -> what it holds."""
    urls: dict[str, Record] = {}
    texts: dict[bytes, Record] = {}
    left: list[Item] = []
    outputs: dict[str, list[bytes]] = {}
    for source, paths in files.items():
        outputs[f"{source}.jsonl"], outputs[f"drops/{source}.jsonl"] = [], []
        for path in paths:
            for record, line in read_items(source, path):
                drop = _repeats(config, record, urls, texts)
                if drop is None and config.near_duplicates is not None:
                    left.append((record, line))
                else:
                    _put(outputs, record, line, drop or _contaminated(searcher, record))
    near = _near(folder, config, [record for record, _ in left], list(files))
    for (record, line), drop in zip(left, near, strict=True):
        _put(outputs, record, line, drop or _contaminated(searcher, record))
    return {name: b"".join(line + b"\n" for line in lines) for name, lines in outputs.items()}


def _put(
    outputs: dict[str, list[bytes]], record: Record, line: bytes, drop: dict[str, Any] | None
) -> None:
    if drop is None:
        outputs[f"{record.source}.jsonl"].append(line)
    else:
        outputs[f"drops/{record.source}.jsonl"].append(_dumped_drop(record, drop))


def _repeats(
    config: CurateConfig, record: Record, urls: dict[str, Record], texts: dict[bytes, Record]
) -> dict[str, Any] | None:
    url = record.meta.get("url")
    if config.same_url == "drop" and isinstance(url, str) and url.strip():
        first = urls.setdefault(normal_url(url), record)
        if first is not record:
            said = {"source": first.source, "id": first.id}
            return {"reason": "same url", "first": said, "url": normal_url(url)}
    if config.dedup == "exact":
        first = texts.setdefault(digest(text_of(record)), record)
        if first is not record:
            return {"reason": "duplicate", "first": {"source": first.source, "id": first.id}}
    return None


def _near(
    folder: Path, config: CurateConfig, records: list[Record], sources: list[str]
) -> list[dict[str, Any] | None]:
    if config.near_duplicates is None:
        return [None] * len(records)
    encoded = [text_of(record).encode("utf-8", "surrogatepass") for record in records]
    near = NearDuplicates(
        config.near_duplicates, folder, lambda some: flatten([encoded[n] for n in some.tolist()])
    )
    for source in sources:
        near.begin_source()
        some = [n for n, record in enumerate(records) if record.source == source]
        keys = b"".join(digest(text_of(records[n])) for n in some)
        hasher = open_hasher(config.near_duplicates)
        near.add(
            np.frombuffer(keys, np.uint8).reshape(-1, 16), *hasher.bands([encoded[n] for n in some])
        )
    verdicts = near.settle()
    near.close()
    drops: list[dict[str, Any] | None] = []
    for number, survivor in enumerate(verdicts.survivors.tolist()):
        if survivor == number:
            drops.append(None)
            continue
        stays = records[survivor]
        drop = {
            "reason": "near-duplicate",
            "survivor": {"source": stays.source, "id": stays.id},
            "jaccard": round(float(verdicts.jaccard[number]), 4),
        }
        through = int(verdicts.through[number])
        if through != survivor:
            link = round(float(verdicts.link[number]), 4)
            said = {"source": records[through].source, "id": records[through].id}
            drop["through"] = said | {"jaccard": link}
        drops.append(drop)
    return drops


def _contaminated(searcher: Searcher | None, record: Record) -> dict[str, Any] | None:
    text = text_of(record)
    hits = [hit.explain(text) for hit in searcher.search([text])[0]] if searcher else []
    return {"reason": "contaminated"} | hits[0] | {"hits": hits} if hits else None


def _dumped_drop(record: Record, drop: dict[str, Any]) -> bytes:
    row = record.to_json() | drop
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(row).encode()
