"""What is in an index: counts, origin, health, and single documents as ids and text."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_file
from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.dataset.fingerprint import read_sidecar
from megatron_math.index.journal import beside
from megatron_math.index.record_ids import RecordIds
from megatron_math.inspect.texts import decode, decode_part, find_tokenizer
from megatron_math.tokenizer import Tokenizer

NUM_FIRST_DOCUMENTS = 3
LINES = "{lines:,} = {written:,} written + {empty:,} empty + {quarantined:,} quarantined"
NUM_SOURCES = 5
TEXT_CHARACTERS = 400


def inspect_index(
    prefix: Path,
    *,
    document: int | None = None,
    tokenizer: Path | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Facts about the index `prefix` (.bin or .idx may stand behind), as JSON types.

    document: show this one whole, token by token; otherwise the first few as text. tokenizer:
    where it is, if not in a folder `tokenizer` beside the index. verify: compare the files' digests
    with the sidecar's (reads everything). Raises UserError for an index that cannot be read.
    """
    if prefix.suffix in (".bin", ".idx"):
        prefix = prefix.with_suffix("")
    index = IndexedDocuments(prefix)
    sidecar = read_sidecar(index)
    described = sidecar and sidecar.get("tokenizer")
    found = find_tokenizer(tokenizer, [prefix.parent / "tokenizer"], described)
    if document is not None and not 0 <= document < len(index):
        raise UserError(f"document {document} of {prefix}: it has {len(index)}, numbered from 0")
    chosen = range(min(NUM_FIRST_DOCUMENTS, len(index))) if document is None else [document]
    record_ids = open_record_ids(index)
    faults, num_empty = _faults(index, sidecar, record_ids, verify)
    return {
        "prefix": str(prefix),
        "documents": len(index),
        "empty_documents": num_empty,
        "tokens": index.num_tokens,
        "dtype": index.dtype.name,
        "bytes": {"bin": index.bin_path.stat().st_size, "idx": index.idx_path.stat().st_size},
        "tokens_per_document": _lengths(index),
        "tokenizer": described,
        "tokenizer_at": found and str(found.path),
        "text_bytes": sidecar and sidecar.get("text_bytes"),
        "append_eod": sidecar and sidecar.get("append_eod"),
        "sources": sidecar and sidecar.get("sources"),
        "record_ids": record_ids is not None,
        "roles": index.roles_path.is_file(),
        "accounting": sidecar and sidecar.get("accounting"),
        "engine": sidecar and sidecar.get("engine"),
        "shard": sidecar and sidecar.get("shard"),
        "faults": faults,
        "verified": verify and sidecar is not None,
        "shown": [
            describe_document(index, number, found, record_ids, whole=document is not None)
            for number in chosen
        ],
    }


def open_record_ids(index: IndexedDocuments) -> RecordIds | None:
    """The lineage file beside an index; None where there is none."""
    path = index.prefix.with_name(index.prefix.name + ".ids")
    return RecordIds(path) if path.is_file() else None


def describe_document(
    index: IndexedDocuments,
    number: int,
    tokenizer: Tokenizer | None,
    record_ids: RecordIds | None,
    *,
    whole: bool,
) -> dict[str, Any]:
    """One document; with `whole` every id, its piece of text and its role too."""
    ids = index.document(number).tolist()
    facts: dict[str, Any] = {
        "document": number,
        "id": record_ids[number] if record_ids else None,
        "place": record_ids and list(record_ids.place(number)),
        "tokens": len(ids),
        "ends_with_eod": bool(ids) and ids[-1] == tokenizer.eod_id if tokenizer else None,
        "text": decode(tokenizer, ids),
    }
    if whole:
        facts["ids"] = ids
        facts["pieces"] = tokenizer and [
            decode_part(tokenizer, ids, place, place + 1) for place in range(len(ids))
        ]
        if index.roles_path.is_file():
            names = {code: name for name, code in ROLES.items()}
            roles = index.roles(number, 0, len(ids)).tolist()
            facts["roles"] = [names.get(code, f"unknown {code}") for code in roles]
    return facts


def _lengths(index: IndexedDocuments) -> dict[str, float] | None:
    if not len(index):
        return None
    lengths_D = np.asarray(index.lengths_D)
    return {
        "least": int(lengths_D.min()),
        "median": float(np.median(lengths_D)),
        "mean": round(float(lengths_D.mean()), 2),
        "most": int(lengths_D.max()),
    }


def _faults(
    index: IndexedDocuments,
    sidecar: dict[str, Any] | None,
    record_ids: RecordIds | None,
    verify: bool,
) -> tuple[list[str], int | None]:
    """(what is wrong, empty documents)."""
    found, num_empty = [], None
    try:
        num_empty = index.check_pointers()
    except UserError as error:
        found.append(str(error))
    if record_ids is not None and len(record_ids) != len(index):
        found.append(f"the .ids tell of {len(record_ids)} documents, the .idx of {len(index)}")
    if sidecar is None:
        found.append("no sidecar (.json): nothing says which tokenizer wrote it")
        return found, num_empty
    for kind in ("bin", "idx", "ids", "roles"):
        told, path = sidecar.get(kind), beside(index.prefix, f".{kind}")
        if (told is None) == path.is_file():
            found.append(
                f"{path.name} is {'there' if told is None else 'missing'}, against the sidecar"
            )
        elif told is not None and told["bytes"] != path.stat().st_size:
            found.append(f"{path.name} has not the size that its sidecar says")
        elif told is not None and verify and blake3_file(path) != told["blake3"]:
            found.append(f"{path.name} does not match the digest in its sidecar")
    return found, num_empty


def render_index(facts: dict[str, Any]) -> Group:
    """The facts for a rich console."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    lengths = facts["tokens_per_document"]
    rows = {
        "documents": f"{facts['documents']:,}"
        + (f" ({facts['empty_documents']:,} empty)" if facts["empty_documents"] else ""),
        "tokens": f"{facts['tokens']:,} as {facts['dtype']}, {facts['bytes']['bin']:,} bytes",
        "a document": lengths
        and f"{lengths['least']:,} to {lengths['most']:,} tokens, median {lengths['median']:,.0f}",
        "tokenizer": facts["tokenizer"]
        and "{kind}, size {size}, eod {eod}, bos {bos}".format(**facts["tokenizer"]),
        "found at": facts["tokenizer_at"] or "not found: give --tokenizer to see text",
        "text": facts["text_bytes"] and f"{facts['text_bytes']:,} bytes",
        "engine": facts["engine"]
        and "{name}, {compared:,} documents compared with the reference".format(**facts["engine"]),
        "lines": facts["accounting"] and LINES.format(**facts["accounting"]),
        "from": _sources(facts["sources"] or []),
        "lineage": "record ids" if facts["record_ids"] else "no record ids",
        "faults": "; ".join(facts["faults"]) or "none" + (", digests equal" * facts["verified"]),
    }
    for name, text in rows.items():
        table.add_row(name, escape(str(text or "unknown")))
    return Group(f"[bold]{escape(facts['prefix'])}[/]", table, *map(_document, facts["shown"]))


def _sources(sources: list[dict[str, Any]]) -> str:
    paths = [source["path"] for source in sources]
    more = f" and {len(paths) - NUM_SOURCES:,} more" if len(paths) > NUM_SOURCES else ""
    return ", ".join(paths[:NUM_SOURCES]) + more


def _document(facts: dict[str, Any]) -> Group:
    end = {True: ", ends with EOD", False: ", does not end with EOD", None: ""}
    named = f" {facts['id']}" if facts["id"] is not None else ""
    origin = " ({}, line {:,})".format(*facts["place"]) if facts["place"] else ""
    title = f"document {facts['document']}{named}{origin}: {facts['tokens']:,} tokens"
    head = f"\n[bold]{escape(title + end[facts['ends_with_eod']])}[/]"
    if "ids" not in facts:
        text = facts["text"]
        if text is not None and len(text) > TEXT_CHARACTERS:
            text = f"{text[:TEXT_CHARACTERS]} … ({len(text) - TEXT_CHARACTERS:,} characters more)"
        return Group(head, escape(text if text is not None else "(no tokenizer, no text)"))
    table = Table("token", "id", *["text"] * (facts["pieces"] is not None))
    roles = facts.get("roles")
    if roles:
        table.add_column("role")
    for place, identity in enumerate(facts["ids"]):
        cells = [str(place), str(identity)]
        if facts["pieces"] is not None:
            cells.append(escape(repr(facts["pieces"][place])[1:-1]))
        table.add_row(*cells, *([roles[place]] if roles else []))
    return Group(head, table)
