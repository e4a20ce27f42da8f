"""Training FLOPs of one token, counted layer by layer.

A multiply-add is two FLOPs; the backward pass costs twice the forward pass, hence the factor 6 per
weight (Kaplan et al. 2020, section 2.1). Counted: every matrix product, the output layer with its
un-padded vocabulary, and the two attention products. Not counted: embedding look-up, norms,
activations, rotary positions, softmax, and recomputation. Torch-free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the configuration offers this count as a method
    from megatron_math.model.config import ModelConfig
    from megatron_math.model.lora_config import LoraConfig

AttentionCount = Literal["half", "full"]


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that multiply each token: all projections and the output layer, tied or not.

    Of experts only the chosen ones, and the router.
    """
    query = config.num_attention_heads * config.head_dim
    key_value = 2 * config.num_query_groups * config.head_dim
    attention = config.hidden_size * (query + key_value) + query * config.hidden_size
    mlp = (config.experts_per_token or 1) * 3 * config.hidden_size * config.ffn_hidden_size
    mlp += config.hidden_size * (config.num_experts or 0)
    return config.num_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def attended_tokens(
    config: ModelConfig, sequence_length: int, causal: AttentionCount = "half"
) -> float:
    """Keys that one query meets, averaged over a sequence.

    `full`: the whole sequence, as PaLM (appendix B) and Megatron-LM's log line count. `half`:
    exactly what the causal mask leaves, (sequence_length + 1) / 2, less what a window hides.
    """
    if causal == "full":
        return float(sequence_length)
    window = min(config.sliding_window or sequence_length, sequence_length)
    # Queries 1..window see 1..window keys, all later ones see `window`.
    pairs = window * (window + 1) // 2 + (sequence_length - window) * window
    return pairs / sequence_length


def training_flops_per_token(
    config: ModelConfig,
    sequence_length: int,
    causal: AttentionCount = "half",
    *,
    lora: LoraConfig | None = None,
) -> float:
    """Forward and backward FLOPs of one token in a packed sequence of `sequence_length` tokens.

    Each layer has two attention products (scores, and weights times values), each of
    num_attention_heads * head_dim multiply-adds per key met. With `lora` the model's own weights
    have no gradient, a third less work for them, and the adapters are counted.
    """
    width = config.num_attention_heads * config.head_dim
    attention = config.num_layers * 2 * width * attended_tokens(config, sequence_length, causal)
    if lora is None:
        return 6.0 * (matmul_parameters(config) + attention)
    trained = lora.num_parameters(config)
    return 4.0 * matmul_parameters(config) + 6.0 * (attention + trained)
