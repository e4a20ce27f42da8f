"""Learning rate as a pure function of the iteration: nothing to save, nothing to drift.

Iterations count from 0 here; the rate of a step is taken before it. Shapes: warm-up is linear to
`lr`; cosine falls to `min_lr` (MathGPT-8B: 1e-4 to 1e-5); wsd is flat, then linear to `min_lr`
(JiuZhang3.0: 3 % warm-up, decay from 85 %, floor 10 %); multistep multiplies by 0.316 at 80 % and
by 0.1 at 90 % (DeepSeekMath); constant stays.
"""

import math

from megatron_math.train.config import TrainConfig


def learning_rate(config: TrainConfig, iteration: int, num_iterations: int) -> float:
    """The rate of step `iteration` (0 <= iteration < num_iterations)."""
    warmup = round(config.warmup_share * num_iterations)
    if iteration < warmup:
        return config.lr * (iteration + 1) / warmup
    share = iteration / num_iterations
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "multistep":
        return config.lr * (0.1 if share >= 0.9 else 0.316 if share >= 0.8 else 1.0)
    if config.schedule == "wsd":
        start = num_iterations - round((config.decay_share or 0.15) * num_iterations)
        if iteration < start:
            return config.lr
        left = 1 - (iteration - start + 1) / (num_iterations - start)
        return config.min_lr + (config.lr - config.min_lr) * left
    progress = (iteration - warmup + 1) / max(1, num_iterations - warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
