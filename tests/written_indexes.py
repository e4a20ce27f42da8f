"""Small indexes for tests, from the reference writer, with a sidecar like the index room's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_math.base.files import blake3_file, write_json
from megatron_math.native.reference_index_writer import ReferenceIndexWriter

EOD = 69_999  # beyond every counting document, so that padding can be told from tokens
TOKENIZER = {
    "fingerprint": "f" * 64,
    "kind": "HuggingFaceTokenizer",
    "size": 70_000,
    "eod": EOD,
    "bos": None,
}


def write_index(
    prefix: Path,
    documents: Sequence[Sequence[int]],
    *,
    roles: Sequence[Sequence[int]] | None = None,
    tokenizer: dict | None = TOKENIZER,
) -> Path:
    """An index of these documents; tokenizer None leaves out the sidecar, as core does."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    writer = ReferenceIndexWriter(prefix, 70_000)
    tokens = np.array([t for document in documents for t in document], dtype=np.int32)
    writer.add_documents(tokens, np.array([len(d) for d in documents], dtype=np.int32))
    writer.finish()
    if roles is not None:
        flat = [role for document in roles for role in document]
        prefix.with_name(prefix.name + ".roles").write_bytes(bytes(flat))
    sidecar_path = prefix.with_name(prefix.name + ".json")
    sidecar_path.unlink(missing_ok=True)
    if tokenizer is not None:
        files = {}
        for name in ("bin", "idx"):
            path = prefix.with_name(f"{prefix.name}.{name}")
            files[name] = {
                "bytes": path.stat().st_size,
                "blake3": blake3_file(path),
            }
        write_json(
            sidecar_path,
            {
                "format": "megatron-math index",
                "version": 1,
                "documents": len(documents),
                "tokens": len(tokens),
                "tokenizer": tokenizer,
                **files,
            },
        )
    return prefix


def counting_documents(lengths: Sequence[int]) -> list[range]:
    """Documents whose tokens are 0, 1, 2, ... over the whole corpus: each token names its place."""
    ends = np.cumsum(lengths).tolist()
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def ragged_lengths(num_documents: int, seed: int = 0, longest: int = 60) -> list[int]:
    """Repeatable document lengths from 2 to `longest`."""
    digest = hashlib.shake_256(f"{seed}".encode()).digest(2 * num_documents)
    numbers = np.frombuffer(digest, dtype=np.uint16)
    return (2 + numbers % (longest - 1)).tolist()
