"""Planted useful texts are found, and training on what is found beats training on what is not."""

import numpy as np
import pytest
import torch
from planted import World, influence, loss_of, small_model, train_on

from megatron_math.model.lora_config import LoraConfig

LORA = LoraConfig(rank=8, alpha=16)
POOL, TARGETS = 400, 30


def test_useful_texts_come_first() -> None:
    """A tenth of the pool is in the targets' code; warm-up and pool have all ten alike."""
    world = World(seed=3)
    pool, useful = world.pool(POOL)
    with small_model(LORA, seed=3) as model:
        train_on(model, world.pool(1000)[0], steps=100, lr=3e-3, seed=0, adapters=False)
        adam = train_on(model, pool, steps=50, lr=3e-3, seed=1, adapters=True)
        for dimension in (None, 1024):
            scores = influence(model, pool, world.targets(TARGETS), adam, dimension)
            best = np.argsort(-scores)[: useful.sum()]
            print(f"dimension {dimension}: precision {useful[best].mean():.3f}")
            assert useful[best].mean() >= 0.9


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 5))]
)
def test_training_on_the_best_tenth_beats_a_random_tenth(seed: int) -> None:
    """Loss of held-out target texts; adapters begin anew from the same base."""
    world = World(seed=seed)
    pool, _ = world.pool(POOL)
    tenth = POOL // 10
    with small_model(LORA, seed=seed) as model:
        train_on(model, pool, steps=60, lr=3e-3, seed=0, adapters=False)
        begun = {
            name: value.clone() for name, value in model.state_dict().items() if value is not None
        }
        adam = train_on(model, pool, steps=40, lr=3e-3, seed=1, adapters=True)
        scores = influence(model, pool, world.targets(TARGETS), adam, 1024)
        chosen = [pool[n] for n in np.argsort(-scores)[:tenth]]
        by_chance = np.random.default_rng(seed).choice(POOL, tenth, replace=False)
        held_out = world.targets(100, seed=9)
        losses = []
        for texts in (chosen, [pool[n] for n in by_chance]):
            model.load_state_dict(begun, strict=False)
            train_on(model, texts, steps=40, lr=3e-3, seed=2, adapters=True)
            with torch.no_grad():
                losses.append(loss_of(model, held_out).item())
    print(f"seed {seed}: held-out loss {losses[0]:.3f}, of a random tenth {losses[1]:.3f}")
    assert losses[0] < losses[1]
