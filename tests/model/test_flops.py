"""Training FLOPs against numbers worked out by hand."""

import pytest

from megatron_math.model.config import ModelConfig
from megatron_math.model.flops import (
    attended_tokens,
    matmul_parameters,
    training_flops_per_token,
)
from megatron_math.model.lora_config import LoraConfig
from megatron_math.model.presets import load_preset

# 2 layers, width 8, 2 query heads of 4, 1 key/value head, ffn 16, vocabulary 32.
# Attention weights: q 8*8, k 8*4, v 8*4, o 8*8 = 192; SwiGLU 3*8*16 = 384; output layer 32*8 = 256.
# 2 * (192 + 384) + 256 = 1408.
SMALL = {
    "hidden_size": 8,
    "num_layers": 2,
    "num_attention_heads": 2,
    "num_query_groups": 1,
    "ffn_hidden_size": 16,
    "vocab_size": 32,
    "max_sequence_length": 64,
}


@pytest.mark.parametrize("tied", [False, True])
def test_hand_computed_matmul_weights(tied):
    # The output layer multiplies whether or not it shares the embedding's numbers.
    config = ModelConfig.model_validate({**SMALL, "tied_embeddings": tied})
    assert matmul_parameters(config) == 1408


def test_hand_computed_training_flops():
    config = ModelConfig.model_validate(SMALL)
    # full: 2 layers * 2 products * width 8 * 10 keys = 320 multiply-adds; 6 * (1408 + 320) = 10368.
    assert training_flops_per_token(config, 10, causal="full") == 10368
    # half: 5.5 keys on average: 176 multiply-adds; 6 * (1408 + 176) = 9504.
    assert training_flops_per_token(config, 10) == 9504
    assert config.flops_per_token(10) == 9504


def test_hand_computed_matmul_weights_of_experts():
    # As above with two of four SwiGLUs and a router of 4*8: 2 * (192 + 2 * 384 + 32) + 256 = 2240.
    experts = {"family": "mixtral", "num_experts": 4, "experts_per_token": 2}
    config = ModelConfig.model_validate({**SMALL, **experts})
    assert matmul_parameters(config) == 2240
    # All four SwiGLUs, norms of 5 * 8 and two matrices of 256.
    assert config.num_parameters() == 2 * (192 + 4 * 384 + 32) + 40 + 512
    assert config.num_active_parameters() == 2240 + 40 + 256


def test_hand_computed_adapters():
    config = ModelConfig.model_validate(SMALL)
    lora = LoraConfig(rank=2, alpha=4, targets=("qkv", "fc2"))
    # Each layer: qkv 2 * (8 + 16), fc2 2 * (16 + 8).
    assert lora.num_parameters(config) == 2 * (48 + 48) == 192
    # Frozen weights twice (forward, gradient of the input), the rest three times:
    # 4 * 1408 + 6 * (176 + 192) = 7840.
    assert training_flops_per_token(config, 10, lora=lora) == 7840


def test_window_hides_keys_exactly():
    config = ModelConfig.model_validate({**SMALL, "family": "mistral", "sliding_window": 3})
    brute = sum(min(position + 1, 3) for position in range(10)) / 10
    assert attended_tokens(config, 10) == brute == 2.7
    assert attended_tokens(config, 2) == 1.5
    assert attended_tokens(config, 10, causal="full") == 10


def test_llama3_8b_is_near_six_n():
    # 6 * (8.03e9 - 128256 * 4096) = 4.503e10; attention adds 6 * 32 * 2 * 4096 * 4096.5.
    config = load_preset("llama3-8b")
    flops = config.flops_per_token(8192)
    assert flops == pytest.approx(4.503e10 + 6.443e9, rel=1e-3)
