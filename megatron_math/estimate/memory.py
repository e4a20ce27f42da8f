"""Memory of one rank by kind, from tensor shapes.

Activations are what Megatron-Core's layer with Transformer Engine keeps for the backward pass,
without dropout: Korthikanti et al. 2022 (arXiv 2205.05198), section 4, written out for
grouped-query attention, SwiGLU and fused attention, which keeps nothing that grows with the square
of the sequence. Pipelines: section 4.2.3 there. Sharded state: Rajbhandari et al. 2020 (arXiv
1910.02054), section 5.
"""

from dataclasses import asdict, dataclass, replace

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import Gpu
from megatron_math.estimate.layout import Layout, stage_weights
from megatron_math.model.config import ModelConfig

FRAGMENTATION_SHARE = 0.03
"""Of all tensors: what the caching allocator reserves and cannot use, with expandable segments."""
DRIVER_BYTES = 2 * 1024**3
"""Outside the allocator: the driver's context, collective buffers, library workspaces."""
LOSS_BYTES = {"eager": 12, "parallel": 6, "fused": 4}
"""Of one logit at the peak. eager: log-softmax, its gradient and the logits' gradient in fp32.
parallel: fp32 softmax, turned in place into the gradient, and its cast. fused: logits, gradient."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, by kind."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept between forward and backward pass, over all micro-batches in flight."""
    working: int
    """Of the one layer whose backward pass runs, and weights that full sharding gathers."""
    logits: int
    fragmentation: int
    driver: int

    @property
    def allocated(self) -> int:
        """What the framework's allocator reserves; the figure that trainers log."""
        return self.total - self.driver

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """The kind that takes the most."""
        kinds = asdict(self)
        return max(kinds, key=lambda kind: kinds[kind])


def layer_bytes_per_token(model: ModelConfig, layout: Layout) -> int:
    """What one layer keeps of one token on one rank, before the context and micro-batch cut.

    Residual stream and norm outputs are cut by sequence parallelism, the rest by tensor
    parallelism. In fp8 the input of each matrix product is kept in one byte. Without `fused` it is
    what this package's own torch layers keep, measured to the byte.
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
    operand = 1 if layout.is_fp8 and layout.fused else size
    if layout.fused:
        norms = 2 * (size * hidden + operand * hidden + 4)  # input, output, one fp32 scale
        attention = size * (query + 2 * key_value)
        mlp = size * 2 * inner + operand * inner
        rotary = 0
    else:  # the torch layers: fp32 norms that keep two results, q and k beside the joint q, k, v,
        # SwiGLU in three kernels; and cosines and sines for q and k, which no rank shares
        norms = 2 * (4 * hidden + 2 * size * hidden + 4)
        attention = size * (2 * query + 3 * key_value)
        mlp = size * 5 * inner
        rotary = 4 * size * model.head_dim // layout.micro_batch
    if layout.recompute == "selective":  # the core's output and statistics are made again
        statistics, output = 0, operand * query
    elif operand < size:
        output += operand * query  # the projection's copy
    return norms // around + (attention + statistics + output + mlp) // ways + rotary


def in_flight_layers(model: ModelConfig, layout: Layout, stage: int) -> int:
    """Layers times micro-batches whose activations a stage holds at its peak.

    1F1B: pipeline - stage micro-batches; interleaved: the warm-up's chunks and one more.
    """
    layers = layout.stage_layers(model)[stage]
    if layout.virtual == 1:
        return layers * min(layout.micro_batches, layout.pipeline - stage)
    warm_up = 2 * (layout.pipeline - stage - 1) + (layout.virtual - 1) * layout.pipeline
    chunks = min(warm_up + 1, layout.virtual * layout.micro_batches)
    return -(-chunks * layers // layout.virtual)


def stage_memory(model: ModelConfig, layout: Layout, stage: int) -> Memory:
    """Bytes of one rank of pipeline stage `stage` (from 0)."""
    held = stage_weights(model, layout, stage)
    tokens, size = layout.tokens_per_micro_batch, layout.element_bytes
    gathered = 0
    if layout.sharding == "full":
        # fp32 weights, gradients and moments, each in equal shares; the part in use and the next
        # one as gathered weights and whole gradients.
        weights = gradients = -(-4 * held.total // layout.shards)
        optimizer = -(-2 * layout.moment_bytes * held.total // layout.shards)
        gathered = 2 * held.largest_gather * size
    else:
        weights = held.total * size
        if layout.is_fp8:  # a matrix and its transpose in one byte, beside bf16 or in its place
            weights += (2 - size if layout.fp8_weights else 2) * held.cast
        gradients = held.total * layout.gradient_bytes
        master = 0 if layout.precision == "fp32" else layout.master_bytes
        optimizer = -(-(master + 2 * layout.moment_bytes) * held.total // layout.shards)
    activations = (
        in_flight_layers(model, layout, stage) * tokens * layer_bytes_per_token(model, layout)
    )
    logits = 0
    if stage == layout.pipeline - 1:
        per_token = LOSS_BYTES[layout.loss] * (-(-model.padded_vocab_size // layout.tensor))
        around = layout.tensor if layout.sequence else 1
        logits = tokens * (per_token + 2 * size * model.hidden_size // around)
    working = gathered + tokens * _working_bytes_per_token(model, layout)
    tensors = weights + gradients + optimizer + activations + working + logits
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        working=working,
        logits=logits,
        fragmentation=int(FRAGMENTATION_SHARE * tensors),
        driver=DRIVER_BYTES,
    )


def rank_memory(model: ModelConfig, layout: Layout) -> tuple[Memory, int]:
    """The fullest rank's memory, and its pipeline stage."""
    stages = [stage_memory(model, layout, stage) for stage in range(layout.pipeline)]
    fullest = max(range(layout.pipeline), key=lambda stage: stages[stage].total)
    return stages[fullest], fullest


def check_fit(memory: Memory, stage: int, gpu: Gpu) -> None:
    """UserError naming the largest term when the rank does not fit the GPU."""
    if memory.total <= gpu.memory_bytes:
        return
    cure = {
        "weights": "raise tensor or pipeline",
        "gradients": "raise tensor or pipeline",
        "optimizer": "use more GPUs, or raise tensor or pipeline",
        "activations": "recompute, lower micro_batch_size, or raise context or tensor",
        "working": "lower micro_batch_size, or raise context or tensor",
        "logits": "lower micro_batch_size, or raise tensor or context",
    }.get(memory.largest, "take a GPU with more memory")
    raise UserError(
        f"it does not fit: a rank of pipeline stage {stage + 1} needs {_gib(memory.total)} and "
        f"{gpu.name} has {_gib(gpu.memory_bytes)}; the largest term is {memory.largest} with "
        f"{_gib(getattr(memory, memory.largest))}: {cure}, or --search for layouts that fit"
    )


def checkpoint_bytes(model: ModelConfig, layout: Layout) -> int:
    """One distributed checkpoint: every weight once, with its master copy and two moments."""
    parameters = model.num_parameters()
    padding = (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    parameters += padding * (1 if model.tied_embeddings else 2)
    master = 0 if layout.precision == "fp32" else layout.master_bytes
    return parameters * (layout.element_bytes + master + 2 * layout.moment_bytes)


def _working_bytes_per_token(model: ModelConfig, layout: Layout) -> int:
    """Gradients of the widest tensors of one layer; with recomputation, that layer's own again."""
    size, around = layout.element_bytes, layout.tensor if layout.sequence else 1
    gradients = 2 * size * model.hidden_size // around
    gradients += 3 * size * model.ffn_hidden_size // layout.tensor
    if layout.recompute not in ("operators", "full"):
        return gradients
    whole = replace(layout, recompute="none")
    return gradients + layer_bytes_per_token(model, whole)


def _gib(count: float) -> str:
    return f"{count / 1024**3:,.1f} GiB"
