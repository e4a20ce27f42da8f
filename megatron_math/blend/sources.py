"""The indexes a blend draws from: found, opened, digested, split, and agreed on a tokenizer."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.blend.config import Leaf
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import digests, index_files, probe, read_sidecar
from megatron_math.dataset.plan import PlanIndex
from megatron_math.dataset.split import HeldOutOrder, Split

INDEX_STAGE = "30_index"
DOCUMENTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Source:
    """An opened index, by source name."""

    name: str
    index: IndexedDocuments
    split: Split
    planned: PlanIndex
    tokenizer: dict[str, Any] | None


def find_indexes(road: Road, leaves: Iterable[Leaf]) -> dict[str, IndexedDocuments]:
    """Open every leaf's index, by source name. UserError naming the path that was tried."""
    found: dict[str, IndexedDocuments] = {}
    for leaf in leaves:
        prefix = _prefix(road, leaf)
        if leaf.name in found and found[leaf.name].prefix != prefix:
            raise UserError(
                f"{leaf.where}: the source '{leaf.name}' is {found[leaf.name].prefix} in another "
                f"stage and {prefix} here; give one of them another key"
            )
        try:
            index = found.setdefault(leaf.name, IndexedDocuments(prefix))
        except UserError as error:
            raise UserError(f"{leaf.where}: {error}") from None
        if leaf.loss != "all":
            index.require_roles(f"{leaf.where}.loss: {', '.join(leaf.loss)}")
        if index.num_tokens == 0:
            raise UserError(f"{leaf.where}: the index {prefix} holds no tokens; index it again")
    return found


def _prefix(road: Road, leaf: Leaf) -> Path:
    if leaf.path is not None:
        return Path(leaf.path)
    return road.done(INDEX_STAGE).path / f"{leaf.index_source}_text_document"


def open_sources(
    indexes: dict[str, IndexedDocuments],
    leaves: Iterable[Leaf],
    *,
    folder: Path,
    seed: int,
    validation: float,
) -> dict[str, Source]:
    """Check, digest and split every index.

    UserError for a damaged one, and when two of them have different tokenizers.
    """
    with_roles = {leaf.name for leaf in leaves if leaf.loss != "all"}
    sources = {
        name: _open(name, index, folder, seed, validation, name in with_roles)
        for name, index in indexes.items()
    }
    common_tokenizer(sources.values())
    return sources


def _open(
    name: str,
    index: IndexedDocuments,
    folder: Path,
    seed: int,
    validation: float,
    with_roles: bool,
) -> Source:
    num_empty = index.check_pointers()
    sidecar = read_sidecar(index)
    files = index_files(index.prefix, with_roles=with_roles)
    found = digests(index, files)
    split = Split.draw(
        index.num_documents,
        seed=seed,
        share=validation,
        bin_digest=found["bin"]["blake3"],
    )
    held_out = _held_out_tokens(index, split)
    if held_out == index.num_tokens:
        raise UserError(
            f"all {held_out} tokens of the index {index.prefix} are in the "
            f"{split.num_held_out} documents held out, none is left to train on; "
            f"lower blend.validation or give more documents"
        )
    tokenizer = sidecar["tokenizer"] if sidecar else None
    if tokenizer is None:
        log.warning("%s has no sidecar: which tokenizer wrote it is not known", index.prefix)
    planned = PlanIndex.model_validate(
        {
            "prefix": _relative(index.prefix, folder),
            "probe": probe(list(files.values())),
            "roles": None,
            **found,
            "tokenizer": tokenizer["fingerprint"] if tokenizer else None,
            "documents": index.num_documents,
            "empty_documents": num_empty,
            "tokens": index.num_tokens,
            "training_documents": split.num_documents - split.num_held_out,
            "training_tokens": index.num_tokens - held_out,
            "validation_documents": split.num_held_out,
            "validation_tokens": held_out,
        }
    )
    return Source(name, index, split, planned, tokenizer)


def _held_out_tokens(index: IndexedDocuments, split: Split) -> int:
    order, total = HeldOutOrder(index.lengths, split), 0
    for first in range(0, split.num_held_out, DOCUMENTS_AT_ONCE):
        count = min(DOCUMENTS_AT_ONCE, split.num_held_out - first)
        total += int(order.read(0, first, count)[1].sum())
    return total


def _relative(prefix: Path, folder: Path) -> str:
    """Relative to the plan inside the same run folder (it may be moved), absolute elsewhere."""
    prefix, run_folder = prefix.absolute(), folder.absolute().parent
    if prefix.is_relative_to(run_folder):
        return os.path.relpath(prefix, folder.absolute())
    return str(prefix)


def common_tokenizer(sources: Iterable[Source]) -> dict[str, Any] | None:
    """The one tokenizer of all sources that name theirs. UserError when there are two."""
    known = [(source.name, source.tokenizer) for source in sources if source.tokenizer]
    for name, tokenizer in known:
        first_name, first = known[0]
        if tokenizer["fingerprint"] != first["fingerprint"]:
            raise UserError(
                f"the sources '{first_name}' and '{name}' were written by different tokenizers "
                f"({first.get('kind')} {first['fingerprint'][:12]} and {tokenizer.get('kind')} "
                f"{tokenizer['fingerprint'][:12]}); index both with one tokenizer"
            )
    return known[0][1] if known else None
