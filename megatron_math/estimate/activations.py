"""What the layers keep of one token between forward and backward pass.

Megatron-Core's layer with Transformer Engine, without dropout: Korthikanti et al. 2022 (arXiv
2205.05198), section 4, written out for grouped-query attention, SwiGLU and fused attention, which
keeps nothing that grows with the square of the sequence. Without `Layout.fused`: this package's own
torch layers, measured to the byte but for the router's weights in fp32, which are not a token's.
Experts are taken to be equally busy: each rank then works on as many tokens as it sends out,
`experts_per_token` times its own.
"""

from dataclasses import replace

from megatron_math.estimate.layout import Layout
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import Target

BYTES_PER_ROUTED_EXPERT = 9
"""Of each expert that a token could go to: its probability for the balance loss and its weight, in
fp32, and whether it was chosen."""
BYTES_PER_CHOICE = 24
"""Of each expert that a token goes to: its index, the token's index, the fp32 weight before and
behind the exchange."""


def layer_bytes_per_token(model: ModelConfig, layout: Layout) -> int:
    """What one layer keeps of one token on one rank, before the context and micro-batch cut.

    Residual stream and norm outputs are cut by sequence parallelism, the rest by tensor
    parallelism; experts are whole, and their tokens are cut as the residual stream is. In fp8 the
    input of each matrix product is kept in one byte.
    """
    query = model.num_attention_heads * model.head_dim
    key_value = model.num_query_groups * model.head_dim
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    size, ways = layout.element_bytes, layout.tensor
    around = ways if layout.sequence else 1
    statistics, output = 4 * model.num_attention_heads, size * query
    if layout.recompute == "full":
        return size * hidden // around
    if layout.recompute == "operators":
        products = size * (query + key_value + inner + hidden)
        return size * hidden // around + (products + output + statistics) // ways
    operand = _operand_bytes(layout)
    if layout.fused:
        attention = size * (query + 2 * key_value)
        rotary = 0
    else:  # q and k beside the joint q, k, v, and cosines and sines for both, which no rank shares
        attention = size * (2 * query + 3 * key_value)
        rotary = 4 * size * model.head_dim // layout.micro_batch
    if layout.recompute == "selective":  # the core's output and statistics are made again
        statistics, output = 0, operand * query * _keeps_input(layout, "proj")
    elif operand < size:
        output += operand * query  # the projection's copy
    cut_around = _norm_bytes(model, layout, "qkv")
    cut = attention + statistics + output
    if model.num_experts is None:
        cut_around += _norm_bytes(model, layout, "fc1")
        cut += _mlp_bytes(model, layout)
    else:
        cut_around += _expert_bytes(model, layout)
    return cut_around // around + cut // ways + rotary + _adapter_bytes(layout, around)


def working_bytes_per_token(model: ModelConfig, layout: Layout) -> int:
    """Gradients of the widest tensors of one layer; with recomputation, that layer's own again."""
    size, around = layout.element_bytes, layout.tensor if layout.sequence else 1
    gradients = 2 * size * model.hidden_size // around
    if model.experts_per_token is None:
        gradients += 3 * size * model.ffn_hidden_size // layout.tensor
    else:
        of_one_choice = size * (model.hidden_size + 3 * model.ffn_hidden_size)
        gradients += model.experts_per_token * of_one_choice // around
    if layout.recompute not in ("operators", "full"):
        return gradients
    whole = replace(layout, recompute="none")
    return gradients + layer_bytes_per_token(model, whole)


def _operand_bytes(layout: Layout) -> int:
    """Of one element of a matrix product's kept input."""
    return 1 if layout.is_fp8 and layout.fused else layout.element_bytes


def _keeps_input(layout: Layout, target: Target) -> bool:
    """Whether a map's input is kept: for the gradient of its weight, or of the adapter beside it.

    Fused kernels have not been seen with adapters: counted as if they kept what they keep without.
    """
    return layout.lora is None or layout.fused or target in layout.lora.targets


def _norm_bytes(model: ModelConfig, layout: Layout, behind: Target) -> int:
    """Input, scale and output of the norm before the map `behind`."""
    hidden, size = model.hidden_size, layout.element_bytes
    output = _operand_bytes(layout) * hidden * _keeps_input(layout, behind)
    if layout.fused:
        return size * hidden + output + 4
    normed = size * hidden * (layout.lora is None)  # for the gradient of the norm's own weight
    return 4 * hidden + normed + output + 4


def _mlp_bytes(model: ModelConfig, layout: Layout) -> int:
    inner, size = model.ffn_hidden_size, layout.element_bytes
    before = 2 if layout.fused else 4  # gate and up; SwiGLU in three kernels
    return size * before * inner + _operand_bytes(layout) * inner * _keeps_input(layout, "fc2")


def _expert_bytes(model: ModelConfig, layout: Layout) -> int:
    """The norm, the router's fp32 copy of its output, and the chosen experts."""
    assert model.num_experts is not None
    assert model.experts_per_token is not None
    hidden, inner, size = model.hidden_size, model.ffn_hidden_size, layout.element_bytes
    operand, is_trained = _operand_bytes(layout), layout.lora is None or layout.fused
    before = 2 if layout.fused else 5  # the weight of a choice scales SwiGLU's product in a kernel
    choice = size * before * inner + operand * (hidden + inner) * is_trained + BYTES_PER_CHOICE
    norm = _norm_bytes(model, layout, "fc1") - operand * hidden * _keeps_input(layout, "fc1")
    router = 4 * hidden * is_trained + BYTES_PER_ROUTED_EXPERT * model.num_experts
    return norm + router + model.experts_per_token * choice


def _adapter_bytes(layout: Layout, around: int) -> int:
    """The narrow products between A and B: before a column-parallel B they are of all tokens."""
    if layout.lora is None:
        return 0
    narrow = layout.element_bytes * layout.lora.rank
    return sum(
        narrow if target in ("qkv", "fc1") else narrow // around for target in layout.lora.targets
    )
