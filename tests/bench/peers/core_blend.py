"""megatron-core's blending indices: a dataset and a sample number for each sample of a blend.

Prints {"seconds", "samples"}.
"""

import argparse
import json
import time

import numpy as np
from megatron.core.datasets import helpers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shares", required=True)
    parser.add_argument("--samples", type=int, required=True)
    args = parser.parse_args()
    shares = np.load(args.shares)
    begun = time.perf_counter()
    weights = shares / shares.sum()
    dataset = np.zeros(args.samples, dtype=np.int16)
    sample = np.zeros(args.samples, dtype=np.int64)
    helpers.build_blending_indices(dataset, sample, weights, len(weights), args.samples, False)
    seconds = time.perf_counter() - begun
    counts = np.bincount(dataset, minlength=len(weights))
    assert np.abs(counts - weights * args.samples).max() < len(weights)
    print(json.dumps({"seconds": seconds, "samples": len(dataset)}))


if __name__ == "__main__":
    main()
