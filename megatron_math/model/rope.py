"""Rotary frequencies, with Llama-3's scaling in all four of its numbers.

Core's own scaling takes only the factor (its other constants are fixed in 0.16.1), so the scaled
frequencies are computed here and handed to core's rotary embedding.
"""

import math

import torch

from megatron_math.model.config import ModelConfig


def rotary_frequencies(config: ModelConfig) -> torch.Tensor:
    """Radians a token for each pair of a head's dimensions, fp32 [head_dim / 2].

    Plain: base^(-2i/d) (Su et al. 2021, section 3.2.2). With `rope_scaling`: wavelengths longer
    than original/low are stretched by `factor`, shorter than original/high are left, those between
    are blended linearly in original/wavelength (Llama 3.1 release).
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = 1.0 / config.rope_base**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    turns = scaling.original_max_sequence_length * frequency / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return (1 - kept) * frequency / scaling.factor + kept * frequency
