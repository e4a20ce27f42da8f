"""An index of any size without text: lengths as of real documents, tokens random or a sparse file.

    python synthetic_index.py PREFIX DOCUMENTS --mean-tokens 660 [--sparse]

Lengths are log-normal (sigma 1.1, as web text has it), at least 2. Every document ends with EOD.
Also writes PREFIX.npy, the lengths, and a sidecar, whose digests are made up.
"""

import argparse
import hashlib
import json
import struct
from pathlib import Path

import numpy as np

EOD = 0
VOCABULARY = 50_000
CHUNK = 1 << 24
SIGMA = 1.1


def document_lengths(num_documents: int, mean_tokens: int) -> np.ndarray:
    rng = np.random.Generator(np.random.SFC64(1234))
    lengths = np.empty(num_documents, dtype=np.int32)
    for first in range(0, num_documents, CHUNK):
        part = lengths[first : first + CHUNK]
        drawn = rng.lognormal(np.log(mean_tokens) - SIGMA**2 / 2, SIGMA, len(part))
        part[:] = np.clip(drawn, 2, 1 << 20)
    return lengths


def write_idx(path: Path, lengths: np.ndarray) -> int:
    """Returns the bytes of the .bin it describes (uint16 ids)."""
    num_documents, end = len(lengths), 0
    with open(path, "wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<QBQQ", 1, 8, num_documents, num_documents + 1))
        lengths.tofile(file)
        for first in range(0, num_documents, CHUNK):
            ends = end + 2 * np.cumsum(lengths[first : first + CHUNK], dtype=np.int64)
            np.concatenate([[end], ends[:-1]]).tofile(file)
            end = int(ends[-1])
        for first in range(0, num_documents + 1, CHUNK):
            np.arange(first, min(first + CHUNK, num_documents + 1), dtype=np.int64).tofile(file)
    return end


def write_bin(path: Path, lengths: np.ndarray, num_bytes: int, *, sparse: bool) -> None:
    with open(path, "wb") as file:
        if sparse:
            file.truncate(num_bytes)
            return
        rng = np.random.Generator(np.random.SFC64(5))
        step = 1 << 16
        for first in range(0, len(lengths), step):
            ends = np.cumsum(lengths[first : first + step], dtype=np.int64)
            tokens = rng.integers(1, VOCABULARY, int(ends[-1]), dtype=np.uint16)
            tokens[ends - 1] = EOD
            tokens.tofile(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix", type=Path)
    parser.add_argument("documents", type=int)
    parser.add_argument("--mean-tokens", type=int, required=True)
    parser.add_argument("--sparse", action="store_true")
    args = parser.parse_args()
    args.prefix.parent.mkdir(parents=True, exist_ok=True)
    lengths = document_lengths(args.documents, args.mean_tokens)
    bin_path, idx_path = (args.prefix.with_suffix(suffix) for suffix in (".bin", ".idx"))
    num_bytes = write_idx(idx_path, lengths)
    write_bin(bin_path, lengths, num_bytes, sparse=args.sparse)
    np.save(args.prefix.with_suffix(".npy"), lengths)
    made_up = hashlib.sha256(str(args.prefix.name).encode()).hexdigest()
    files = {
        path.suffix[1:]: {
            "bytes": path.stat().st_size, "blake3": made_up, "blake3_64mib": made_up
        }
        for path in (bin_path, idx_path)
    }  # fmt: skip
    facts = {"documents": args.documents, "tokens": int(lengths.sum(dtype=np.int64))}
    sidecar = {
        "format": "megatron-math index",
        "version": 3,
        **facts,
        "dtype": "uint16",
        "tokenizer": {
            "fingerprint": made_up, "kind": "HuggingFaceTokenizer", "size": VOCABULARY, "eod": EOD,
            "bos": None,
        },
        "append_eod": True,
        "prepend_bos": False,
        **files,
    }  # fmt: skip
    args.prefix.with_suffix(".json").write_text(json.dumps(sidecar))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
