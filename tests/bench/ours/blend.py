"""Our blend order: targets from shares, a source for every sample, samples of each before a block.

That is what a plan keeps and a reader finds any sample with. With --numbers the builder writes the
number of every sample within its source too, as core does. Prints {"seconds", "samples"}.
"""

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np

from megatron_math.blend.build import BLOCK_SAMPLES, count_blocks
from megatron_math.blend.config import BlendConfig, resolve
from megatron_math.blend.schedule import PIECE_SAMPLES, schedule
from megatron_math.blend.shares import Targets, share_targets
from megatron_math.blend.tables import SAMPLES_AT_ONCE
from megatron_math.native.order import BlendOrder


def with_numbers(
    targets: Targets, sizes: np.ndarray, num_samples: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The order as `schedule` makes it, and the number of each sample within its source."""
    starts, bases, shares = (
        np.array(values, dtype=np.int64)
        for values in (targets.starts, targets.bases, targets.shares)
    )
    nothing = np.zeros(len(shares), dtype=np.int64)
    native = BlendOrder(starts, bases, shares, length, nothing)
    order_N = np.empty(num_samples, dtype=np.uint16)
    numbers_N = np.empty(num_samples, dtype=np.int64)
    for first in range(0, num_samples, PIECE_SAMPLES):
        piece = order_N[first : first + PIECE_SAMPLES]
        done = 0
        while done < len(piece):
            for source in native.waiting():
                native.feed(source, sizes, True)
            numbers = numbers_N[first + done : first + len(piece)]
            done += native.choose(piece[done:], num_samples * length, numbers)
    return order_N, numbers_N


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
    if args.numbers:
        order_N, numbers_N = with_numbers(targets, sizes, args.samples, length)
    else:
        done = schedule(targets, [full_samples() for _ in shares], length, stage.tokens)
        order_N = done.order_N
    block = BLOCK_SAMPLES << max(0, (len(shares) - 1).bit_length() - 6)
    count_blocks(order_N, block, len(shares))
    seconds = time.perf_counter() - begun
    assert len(order_N) == args.samples
    samples = np.bincount(order_N, minlength=len(shares))
    if args.numbers:
        assert int(numbers_N.sum()) == int((samples * (samples - 1) // 2).sum())
    assert np.abs(samples - shares / shares.sum() * args.samples).max() <= 1
    print(json.dumps({"seconds": seconds, "samples": len(order_N)}))


if __name__ == "__main__":
    main()
