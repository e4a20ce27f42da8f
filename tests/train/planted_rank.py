"""A rank of the training with a fault planted: `planted_rank.py FAULT road.yaml ...`.

FAULT is Python; `in_step(act)` has `act(rank, step)` called in the data phase of every step,
counted from 1.
"""

import os
import sys
from collections.abc import Callable

from megatron_math.train.__main__ import main
from megatron_math.train.feed import Feed

REAL = Feed.microbatches


def in_step(act: Callable[[int, int], None]) -> None:
    def microbatches(self: Feed, number: int) -> list:
        act(int(os.environ["RANK"]), number + 1)
        return REAL(self, number)

    Feed.microbatches = microbatches  # type: ignore[method-assign]


if __name__ == "__main__":
    exec(sys.argv.pop(1), {"in_step": in_step})
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
