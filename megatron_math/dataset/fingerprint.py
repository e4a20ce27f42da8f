"""Is this still the corpus that was planned with? Stamps, probes, digests, and the sidecar.

Stamps (size, times, inode) are enough while they are equal: no program changes a file's bytes and
keeps its time of change. Where they differ, a probe of 64 blocks finds most rewrites at once, and
a sidecar that is not older than its files says their digests. What is left, files that somebody
touched and nothing vouches for, is hashed where that takes less than a second.
"""

import hashlib
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_file, read_json
from megatron_math.dataset.documents import IndexedDocuments

PROBE_BLOCKS = 64
PROBE_BLOCK_BYTES = 4096
HASHED_WHEN_OPENED = 256 << 20  # bytes

Stamps = dict[str, list[int]]


def index_files(prefix: Path, *, with_roles: bool) -> dict[str, Path]:
    """The files that decide what is read, by their suffix without the dot."""
    suffixes = ("bin", "idx", "roles") if with_roles else ("bin", "idx")
    return {suffix: prefix.with_name(f"{prefix.name}.{suffix}") for suffix in suffixes}


def stamps(files: dict[str, Path]) -> Stamps:
    """By suffix, of the files there are: bytes, time of last write and of change in ns, inode."""
    found = {}
    for suffix, path in files.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        times = [status.st_mtime_ns, status.st_ctime_ns]
        found[suffix] = [status.st_size, *times, status.st_ino]
    return found


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


def sidecar_path(index: IndexedDocuments) -> Path:
    return index.prefix.with_name(index.prefix.name + ".json")


def read_sidecar(index: IndexedDocuments) -> dict[str, Any] | None:
    """The parsed `<prefix>.json`, or None where there is none (an index written by core).

    Raises UserError when it speaks of other files than those beside it.
    """
    path = sidecar_path(index)
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


def vouched(index: IndexedDocuments, files: dict[str, Path]) -> dict[str, str]:
    """Digests of the files for which a sidecar vouches: it names one, and was written after it."""
    sidecar = read_sidecar(index)
    if sidecar is None:
        return {}
    written = sidecar_path(index).stat().st_mtime_ns
    return {
        suffix: sidecar[suffix]["blake3"]
        for suffix, path in files.items()
        if "blake3" in sidecar.get(suffix, {}) and path.stat().st_mtime_ns <= written
    }


def digests(index: IndexedDocuments, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """By suffix {"bytes", "blake3"}; reads the files that no sidecar vouches for.

    Raises UserError when one of these is not what the sidecar says.
    """
    vouched_for, found = vouched(index, files), {}
    sidecar = read_sidecar(index) or {}
    for suffix, path in files.items():
        digest = vouched_for.get(suffix) or blake3_file(path)
        told = sidecar.get(suffix, {}).get("blake3", digest)
        if told != digest:
            raise UserError(
                f"{path} is not the file that {sidecar_path(index)} describes: its digest is "
                f"{digest[:12]}, {told[:12]} is told; write the index again"
            )
        found[suffix] = {"bytes": path.stat().st_size, "blake3": digest}
    return found


def why_changed(
    index: IndexedDocuments,
    files: dict[str, Path],
    *,
    planned: dict[str, str],
    planned_probe: str,
    hash_bytes: int | None,
) -> str | None:
    """What speaks against these files being the planned ones; None when they are proven to be.

    planned: digests by suffix. hash_bytes: at most so much is read; None reads all it takes.
    """
    if probe(list(files.values())) != planned_probe:
        return "other sizes or bytes"
    told = vouched(index, files)
    for suffix, digest in told.items():
        if digest != planned[suffix]:
            return (
                f"its sidecar says digest {digest[:12]} for .{suffix}, not {planned[suffix][:12]}"
            )
    unknown = {suffix: path for suffix, path in files.items() if suffix not in told}
    num_bytes = sum(path.stat().st_size for path in unknown.values())
    if hash_bytes is not None and num_bytes > hash_bytes:
        names = ", ".join(f".{suffix}" for suffix in unknown)
        return (
            f"{names} were written or moved since, no newer sidecar vouches for them, and "
            f"{num_bytes:,} bytes are too many to hash now; 'megatron-math blend' hashes them and "
            f"keeps the plan if they are the same"
        )
    sidecar = read_sidecar(index) or {}
    for suffix, path in unknown.items():
        digest = blake3_file(path)
        if digest != planned[suffix]:
            stale = "; the sidecar is stale too, write the index again" if suffix in sidecar else ""
            return f"the digest of .{suffix} is {digest[:12]}, not {planned[suffix][:12]}{stale}"
    return None
