"""megatron-core's GPTDataset on one index: build its cache, open it, read random samples.

WHAT is `build`, `open` or `read`. Prints JSON; imports are never timed.
"""

import argparse
import json
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig


class Tokenizer:
    """What GPTDataset asks of a tokenizer."""

    def __init__(self, vocab_size: int, eod: int) -> None:
        self.vocab_size, self.eod = vocab_size, eod
        self.unique_identifiers = OrderedDict({"class": "benchmark"})


def resident_bytes(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def build(args: argparse.Namespace) -> GPTDataset:
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=args.sequence_length,
        blend_per_split=[([args.prefix], None), None, None],
        path_to_cache=args.cache,
        tokenizer=Tokenizer(50_000, 0),
        reset_position_ids=args.mode == "documents",
        reset_attention_mask=args.mode == "documents",
        eod_mask_loss=args.mode == "documents",
        create_attention_mask=args.mode == "mask",
        fast_cache_load=args.fast,
        defer_npy_index_mmap=args.fast,
    )
    sizes = [args.samples, 0, 0]
    train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()
    return train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["build", "open", "read"])
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--mode", choices=["plain", "documents", "mask"], default="plain")
    parser.add_argument("--fast", action="store_true", help="core's fast cache options")
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    if args.what == "read":
        dataset = build(args)
        said = read(dataset, args)
    else:
        before, begun = resident_bytes("VmRSS"), time.perf_counter()
        dataset = build(args)
        sample = dataset[0]
        seconds, grown = time.perf_counter() - begun, resident_bytes("VmHWM") - before
        assert len(sample["tokens"]) == args.sequence_length
        assert len(dataset) >= args.samples
        said = {"seconds": seconds, "grown_bytes": grown}
    print(json.dumps(said))


def read(dataset: GPTDataset, args: argparse.Namespace) -> dict[str, float]:
    chosen = np.random.default_rng(7).integers(0, args.samples, 1 << 20).tolist()
    begun, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < args.seconds:
        dataset[chosen[count]]
        count += 1
    return {"seconds": seconds, "samples": count}


if __name__ == "__main__":
    main()
