"""Our blend order: targets from shares, a source for every sample, samples of each before a block.

That is what a plan keeps and a reader finds any sample with. With --numbers also the number of
every sample within its source, written out as core does. Prints {"seconds", "samples"}.
"""

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np

from megatron_math.blend.build import BLOCK_SAMPLES, count_blocks
from megatron_math.blend.config import BlendConfig, resolve
from megatron_math.blend.schedule import schedule
from megatron_math.blend.shares import share_targets
from megatron_math.blend.tables import SAMPLES_AT_ONCE


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shares", required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--numbers", action="store_true")
    args = parser.parse_args()
    shares, length = np.load(args.shares), args.sequence_length
    mix = {f"source{number}": {"share": share} for number, share in enumerate(shares.tolist())}
    config = BlendConfig.model_validate(
        {"sequence_length": length, "tokens": args.samples * length, "mix": mix}
    )
    (stage,) = resolve(config)
    sizes = np.full(SAMPLES_AT_ONCE, length, dtype=np.int64)

    def full_samples() -> Iterator[tuple[np.ndarray, bool]]:
        while True:
            yield sizes, False

    begun = time.perf_counter()
    targets = share_targets(stage.mix, [None] * len(shares))
    done = schedule(targets, [full_samples() for _ in shares], length, stage.tokens)
    block = BLOCK_SAMPLES << max(0, (len(shares) - 1).bit_length() - 6)
    count_blocks(done.order_N, block, len(shares))
    if args.numbers:
        in_order = np.argsort(done.order_N, kind="stable")
        firsts = np.cumsum([0, *done.samples[:-1]])
        numbers = np.empty(len(in_order), dtype=np.int64)
        numbers[in_order] = np.arange(len(in_order)) - np.repeat(firsts, done.samples)
    seconds = time.perf_counter() - begun
    assert len(done.order_N) == args.samples
    assert np.abs(np.array(done.samples) - shares / shares.sum() * args.samples).max() <= 1
    print(json.dumps({"seconds": seconds, "samples": len(done.order_N)}))


if __name__ == "__main__":
    main()
