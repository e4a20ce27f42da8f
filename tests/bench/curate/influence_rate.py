"""Gradients a second: texts in batches against one text at a time.

    python tests/bench/curate/influence_rate.py [--hidden 384] [--layers 6] [--tokens 256]
        [--rank 16] [--dimension 8192] [--texts 64] [--batch-tokens 16384]

Both make Adam's steps for all adapters. One at a time is measured twice: with the projection of
each row, and without any, which favours it. The best of three turns.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "curate"))

from planted import one_at_a_time, random_moments, small_model

from megatron_math.curate.influence.gradients import TextGradients
from megatron_math.curate.influence.projection import Projection
from megatron_math.curate.influence.texts import Text
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import LoraConfig


def best_seconds(work: Callable[[], object]) -> float:
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("hidden", 384), ("layers", 6), ("tokens", 256), ("rank", 16), ("dimension", 8192),
        ("texts", 64), ("batch-tokens", 16384), ("vocab", 8000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    config = ModelConfig(
        hidden_size=asked.hidden, num_layers=asked.layers, num_attention_heads=asked.hidden // 32,
        num_query_groups=asked.hidden // 64, ffn_hidden_size=asked.hidden * 8 // 3,
        vocab_size=asked.vocab, max_sequence_length=asked.tokens,
    )  # fmt: skip
    lora = LoraConfig(rank=asked.rank, alpha=2 * asked.rank)
    draw = np.random.default_rng(0)
    lengths = draw.integers(asked.tokens // 2, asked.tokens, asked.texts)
    texts = [Text(draw.integers(0, asked.vocab, length)) for length in lengths]
    rates = {}
    with small_model(lora, config=config) as model:
        adam = random_moments(model)
        projection = Projection(asked.dimension, "seed")
        maker = TextGradients(model, projection, batch_tokens=asked.batch_tokens)
        rates["batches"] = asked.texts / best_seconds(lambda: maker.rows(texts, adam))
        maker.projection = Projection(None, "")
        rates["batches, not projected"] = asked.texts / best_seconds(
            lambda: maker.rows(texts, adam)
        )
    with small_model(lora, config=config) as model:
        adam = random_moments(model)
        for name, width in (("one", asked.dimension), ("one, not projected", None)):
            projection = Projection(width, "seed")
            some = texts[: max(1, asked.texts // 4)]
            seconds = best_seconds(partial(one_at_a_time, model, some, adam, projection))
            rates[name] = len(some) / seconds
    print(
        json.dumps(
            {
                "parameters": config.num_parameters(),
                "adapters": lora.num_parameters(config),
                "texts_per_second": {name: round(rate, 1) for name, rate in rates.items()},
                "times_one": round(rates["batches"] / rates["one"], 2),
                "times_one_not_projected": round(rates["batches"] / rates["one, not projected"], 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
