"""rensa and datasketch on the same texts and shingles; run by their own Python.

Each text's runs of five words are made here, in Python, as both libraries want them; the seconds of
that and of signatures with look-up are told apart.
"""

import argparse
import json
import re
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["rensa", "datasketch"])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--permutations", type=int, default=256)
    parser.add_argument("--bands", type=int, default=32)
    args = parser.parse_args()
    texts = [json.loads(line)["text"] for line in args.input.open(encoding="utf-8")]
    begun = time.perf_counter()
    shingles = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        shingles.append({" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))})
    shingled = time.perf_counter()
    found = 0
    if args.library == "rensa":
        from rensa import RMinHash, RMinHashLSH

        index = RMinHashLSH(threshold=0.8, num_perm=args.permutations, num_bands=args.bands)
        for number, runs in enumerate(shingles):
            signature = RMinHash(num_perm=args.permutations, seed=1)
            signature.update(list(runs))
            found += bool(index.query(signature))
            index.insert(number, signature)
    else:
        from datasketch import MinHash, MinHashLSH

        rows = args.permutations // args.bands
        index = MinHashLSH(num_perm=args.permutations, params=(args.bands, rows))
        for number, runs in enumerate(shingles):
            signature = MinHash(num_perm=args.permutations)
            signature.update_batch([run.encode() for run in runs])
            found += bool(index.query(signature))
            index.insert(number, signature)
    ended = time.perf_counter()
    print(
        json.dumps(
            {
                "texts": len(texts),
                "with_candidates": found,
                "shingle_seconds": shingled - begun,
                "minhash_seconds": ended - shingled,
            }
        )
    )


if __name__ == "__main__":
    main()
