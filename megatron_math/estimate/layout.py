"""Layout: how a run is spread over GPUs, and how many layers and weights each pipeline stage holds.

Ranks are numbered as Megatron-Core does: tensor changes fastest, then context, data, pipeline.
"""

from dataclasses import dataclass
from typing import Literal

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import AttentionKernel, Precision
from megatron_math.model.config import ModelConfig

Recompute = Literal["none", "selective", "operators", "full"]
Sharding = Literal["optimizer", "full"]
Loss = Literal["eager", "parallel", "fused"]


@dataclass(frozen=True)
class Layout:
    """One run's spread and number types. Replicas are what tensor, pipeline and context leave."""

    gpus: int
    sequence_length: int
    global_batch: int
    micro_batch: int = 1
    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    context: int = 1
    sequence: bool = False
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    recompute: Recompute = "none"
    """`operators` keeps every second matrix product and the attention output (torchtitan)."""
    precision: Precision = "bf16"
    sharding: Sharding = "optimizer"
    """What is cut over replicas: the optimizer's state, or weights and gradients too (FSDP)."""
    fp8_weights: bool = False
    """Matrices are kept in fp8 alone, twice; otherwise in bf16 with both fp8 copies beside it."""
    gradient_bytes: int = 4
    master_bytes: int = 4
    moment_bytes: int = 4
    overlap: bool = True
    """Collectives run beside computation where the layout lets them."""
    fused: bool = True
    """Chains of elementwise operations are one kernel each (Transformer Engine, torch.compile);
    or plain torch."""
    attention: AttentionKernel = "flash3"
    loss: Loss = "parallel"
    """How cross-entropy is made: plain torch, Megatron-Core's parallel one, or one kernel."""

    @property
    def data(self) -> int:
        """Replicas."""
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def shards(self) -> int:
        """Ways the optimizer's state is cut: replicas and context ranks hold the same weights."""
        return self.data * self.context

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one replica in one step."""
        return self.global_batch // (self.micro_batch * self.data)

    @property
    def tokens_per_micro_batch(self) -> int:
        """Tokens of one micro-batch that one rank holds."""
        return self.micro_batch * self.sequence_length // self.context

    @property
    def element_bytes(self) -> int:
        """Of one activation between kernels."""
        return 4 if self.precision == "fp32" else 2

    @property
    def is_fp8(self) -> bool:
        return self.precision in ("fp8", "mxfp8")

    def stage_layers(self, model: ModelConfig) -> list[int]:
        """Layers of every pipeline stage; uneven ends as Megatron-Core counts them."""
        first, last = self.first_stage_layers, self.last_stage_layers
        rest = model.num_layers - (first or 0) - (last or 0)
        middle = self.pipeline - (first is not None) - (last is not None)
        share = rest // middle if middle else 0
        layers = [share] * self.pipeline
        layers[0] = share if first is None else first
        if last is not None:
            layers[-1] = last
        return layers

    def fault(self, model: ModelConfig) -> str | None:
        """Why this layout cannot be run at all, in words; None when it can."""
        if model.num_experts is not None:
            return f"a model of {model.num_experts} experts is not estimated yet, dense ones are"
        product = self.tensor * self.pipeline * self.context
        if self.gpus % product:
            return f"tensor x pipeline x context = {product} does not divide {self.gpus} GPUs"
        for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
            if getattr(model, name) % self.tensor:
                return f"tensor {self.tensor} does not divide {name} {getattr(model, name)}"
        if self.sequence_length % (2 * self.context if self.context > 1 else 1):
            return f"twice context {self.context} does not divide {self.sequence_length} tokens"
        if self.global_batch % (self.micro_batch * self.data):
            return (
                f"micro batch {self.micro_batch} x {self.data} replicas does not divide "
                f"the global batch {self.global_batch}"
            )
        layers = self.stage_layers(model)
        first, last = self.first_stage_layers, self.last_stage_layers
        if sum(layers) != model.num_layers or min(layers) < 1:
            return f"{model.num_layers} layers cannot be spread over {self.pipeline} stages evenly"
        ends = [layers[0]] * (first is None) + [layers[-1]] * (last is None)
        if any(count % self.virtual for count in layers[1:-1] + ends):
            return f"virtual {self.virtual} does not divide the {layers[0]} layers of a stage"
        if self.virtual > 1 and self.micro_batches % self.pipeline:
            return (
                f"with virtual stages {self.micro_batches} micro-batches must be a multiple "
                f"of pipeline {self.pipeline}"
            )
        return None

    def check(self, model: ModelConfig) -> None:
        """UserError for a layout that cannot be run at all."""
        fault = self.fault(model)
        if fault is not None:
            raise UserError(f"this layout cannot be run: {fault}")


@dataclass(frozen=True)
class StageWeights:
    """Parameters that one rank of one stage holds. `cast`: of these, in fp8 matrix products."""

    total: int
    cast: int
    largest_gather: int
    """Of the largest part that full sharding gathers at once: a layer, or an embedding."""


def linear_parameters(model: ModelConfig) -> int:
    """Weights of one layer's matrix products."""
    query = model.num_attention_heads * model.head_dim
    key_value = model.num_query_groups * model.head_dim
    attention = model.hidden_size * (2 * query + 2 * key_value)
    return attention + 3 * model.hidden_size * model.ffn_hidden_size


def stage_weights(model: ModelConfig, layout: Layout, stage: int) -> StageWeights:
    """Matrices, biases and embeddings are cut over tensor ranks; norms are on every one."""
    key_value = model.num_query_groups * model.head_dim
    query = model.num_attention_heads * model.head_dim
    bias = query + 2 * key_value if model.qkv_bias else 0
    linear = linear_parameters(model) // layout.tensor
    layer = linear + bias // layout.tensor + 2 * model.hidden_size
    vocabulary = -(-model.padded_vocab_size // layout.tensor) * model.hidden_size
    layers = layout.stage_layers(model)[stage]
    is_first, is_last = stage == 0, stage == layout.pipeline - 1
    tables = int(is_first) + int(is_last)
    if model.tied_embeddings and layout.pipeline == 1:
        tables = 1  # with more stages the last one holds a copy of the embedding
    total = layers * layer + tables * vocabulary + (model.hidden_size if is_last else 0)
    largest = max(layer, vocabulary) if tables else layer
    return StageWeights(total, layers * linear, largest)
