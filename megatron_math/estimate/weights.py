"""How many parameters one rank of a pipeline stage holds, and how many of them are trained."""

from dataclasses import dataclass

from megatron_math.estimate.layout import Layout
from megatron_math.model.config import ModelConfig


@dataclass(frozen=True)
class StageWeights:
    """Parameters that one rank of one stage holds."""

    total: int
    cast: int
    """Of all, those in fp8 matrix products."""
    largest_gather: int
    """Of the largest part that full sharding gathers at once: a layer, or an embedding."""
    trained: int
    """With gradients and optimizer state, cut over `Layout.shards`; experts are not among them."""
    trained_experts: int
    """With gradients and optimizer state, cut over `Layout.expert_shards`."""


def attention_parameters(model: ModelConfig) -> int:
    """Weights of one layer's projections around attention."""
    query = model.num_attention_heads * model.head_dim
    key_value = model.num_query_groups * model.head_dim
    return model.hidden_size * (2 * query + 2 * key_value)


def mlp_parameters(model: ModelConfig) -> int:
    """Weights of one SwiGLU: a layer's only one, or one expert."""
    return 3 * model.hidden_size * model.ffn_hidden_size


def linear_parameters(model: ModelConfig) -> int:
    """Weights of one layer that multiply each token; of experts the chosen ones, and the router."""
    mlps = (model.experts_per_token or 1) * mlp_parameters(model)
    return attention_parameters(model) + mlps + model.hidden_size * (model.num_experts or 0)


def adapter_parameters(model: ModelConfig, layout: Layout) -> int:
    """Of one layer on one rank: B of a column-parallel map is cut, and A of a row-parallel one."""
    if layout.lora is None:
        return 0
    held = 0
    for target, (inputs, outputs) in layout.lora.widths(model).items():
        if target in ("qkv", "fc1"):
            held += layout.lora.rank * (inputs + outputs // layout.tensor)
        else:
            held += layout.lora.rank * (inputs // layout.tensor + outputs)
    return held


def stage_weights(model: ModelConfig, layout: Layout, stage: int) -> StageWeights:
    """Matrices, biases and embeddings are cut over tensor ranks; norms and routers are on every
    one, experts whole on those that they are dealt to."""
    key_value = model.num_query_groups * model.head_dim
    query = model.num_attention_heads * model.head_dim
    bias = query + 2 * key_value if model.qkv_bias else 0
    experts = 0
    if model.num_experts is None:
        linear = (attention_parameters(model) + mlp_parameters(model)) // layout.tensor
        whole = 2 * model.hidden_size
    else:
        linear = attention_parameters(model) // layout.tensor
        experts = model.num_experts // layout.expert * mlp_parameters(model)
        whole = (2 + model.num_experts) * model.hidden_size
    layer = linear + bias // layout.tensor + whole
    vocabulary = -(-model.padded_vocab_size // layout.tensor) * model.hidden_size
    layers = layout.stage_layers(model)[stage]
    is_first, is_last = stage == 0, stage == layout.pipeline - 1
    tables = int(is_first) + int(is_last)
    if model.tied_embeddings and layout.pipeline == 1:
        tables = 1  # with more stages the last one holds a copy of the embedding
    outside = tables * vocabulary + (model.hidden_size if is_last else 0)
    base = layers * layer + outside
    adapters = layers * adapter_parameters(model, layout)
    return StageWeights(
        total=base + layers * experts + adapters,
        cast=layers * (linear + experts),
        largest_gather=max(layer, vocabulary) if tables else layer,
        trained=base if layout.lora is None else adapters,
        trained_experts=layers * experts if layout.lora is None else 0,
    )
