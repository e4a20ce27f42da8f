"""What an index holds, in digests: read from its sidecar, or computed where there is none.

The probe is a digest of the sizes and of 64 blocks spread over each file: a corpus rewritten at
the same prefix is noticed in milliseconds, without reading all of it.
"""

import hashlib
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file
from megatron_math.dataset.documents import IndexedDocuments

PROBE_BLOCKS = 64
PROBE_BLOCK_BYTES = 4096


def probe(paths: list[Path]) -> str:
    """sha256 over the sizes and evenly spread blocks (first and last included) of the files."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        last = max(0, size - PROBE_BLOCK_BYTES)
        with open(path, "rb") as file:
            for offset in sorted({last * i // (PROBE_BLOCKS - 1) for i in range(PROBE_BLOCKS)}):
                file.seek(offset)
                digest.update(file.read(PROBE_BLOCK_BYTES))
    return digest.hexdigest()


def probe_index(index: IndexedDocuments, *, with_roles: bool) -> str:
    return probe([index.bin_path, index.idx_path, *([index.roles_path] if with_roles else [])])


def read_sidecar(index: IndexedDocuments) -> dict[str, Any] | None:
    """The parsed `<prefix>.json`, or None where there is none (an index written by core).

    Raises UserError when it speaks of other files than those beside it.
    """
    path = index.prefix.with_name(index.prefix.name + ".json")
    if not path.is_file():
        return None
    sidecar = read_json(path)
    found = {
        "documents": index.num_documents,
        "tokens": index.num_tokens,
        "bin": index.bin_path.stat().st_size,
        "idx": index.idx_path.stat().st_size,
    }
    told = {key: sidecar.get(key) for key in ("documents", "tokens")} | {
        key: (sidecar.get(key) or {}).get("bytes") for key in ("bin", "idx")
    }
    if told != found:
        raise UserError(
            f"{path} describes another index than the one beside it: it says {told}, found "
            f"{found}; write the index again"
        )
    return sidecar


def digests(index: IndexedDocuments, sidecar: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """{"bin": {"bytes", "sha256"}, "idx": ...}; reads both files where the sidecar is missing."""
    if sidecar is not None:
        return {key: dict(sidecar[key]) for key in ("bin", "idx")}
    return {
        key: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for key, path in (("bin", index.bin_path), ("idx", index.idx_path))
    }
