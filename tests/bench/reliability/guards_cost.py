"""What the guards cost a step: blocks of steps with and without them, in turns, in one run.

Usage: guards_cost.py [--pairs 20] [--steps 4] [--json FILE]. One process, fp32, 11 M weights, 2,048
tokens a step; the fewer tokens a weight sees in a step, the larger the share.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2] / "train"))
from train_roads import prepare

from megatron_math.base.road import Road
from megatron_math.train.guards import Guards
from megatron_math.train.run import read_order, train_rank

WARM_STEPS = 4


class Over(Exception):  # noqa: N818
    """All pairs are measured."""


def save_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, vocab_size=500, max_position_embeddings=256,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def measure(road: Road, pairs: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, with and without; the order within a pair changes."""
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    take = Guards.take

    def timed(self: Guards, step: int, attempt: Any) -> Any:
        number = step - WARM_STEPS
        pair, within = divmod(number, 2 * steps)
        if pair >= pairs:
            raise Over
        is_on = number < 0 or (within < steps) == (pair % 2 == 0)
        begin = time.perf_counter()
        if is_on:
            result = take(self, step, attempt)
        else:
            self._step, self.samples = step, 0
            with (
                mock.patch.object(Guards, "_judge", return_value=None),
                mock.patch.object(Guards, "stepped", return_value=None),
            ):
                result = attempt(False)
            self.forget()
        # The first step of a block with guards has to take digests twice: it is not counted.
        if number >= 0 and within % steps:
            seconds["on" if is_on else "off"].append(time.perf_counter() - begin)
        return result

    with mock.patch.object(Guards, "take", timed), contextlib.suppress(Over):
        train_rank(road, read_order(road))
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    num_steps = WARM_STEPS + arguments.pairs * 2 * arguments.steps + 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "hf")
        prepare(
            folder,
            blend={"sequence_length": 256, "tokens": num_steps * 8 * 256},
            train={"micro_batch_size": 4, "validation_samples": 0},
        )
        seconds = measure(
            Road.load(folder / "road.yaml", [], folder / "runs"), arguments.pairs, arguments.steps
        )
    per = arguments.steps - 1
    blocks = {
        kind: [statistics.fmean(values[k : k + per]) for k in range(0, len(values), per)]
        for kind, values in seconds.items()
    }
    shares = sorted(on / off - 1 for on, off in zip(blocks["on"], blocks["off"], strict=True))
    low, high = shares[len(shares) // 6], shares[-1 - len(shares) // 6]
    told = {
        "pairs": len(shares),
        "milliseconds_off": round(statistics.median(blocks["off"]) * 1e3, 1),
        "share_median": round(statistics.median(shares), 4),
        "share_middle_two_thirds": [round(low, 4), round(high, 4)],
    }
    print(json.dumps(told, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
