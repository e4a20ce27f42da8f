"""Memory of one rank by kind, from tensor shapes.

What layers keep: `activations`. Pipelines: Korthikanti et al. 2022 (arXiv 2205.05198), section
4.2.3. Sharded state: Rajbhandari et al. 2020 (arXiv 1910.02054), section 5; the state of experts is
cut over the ranks that hold the same ones.
"""

from dataclasses import asdict, dataclass

from megatron_math.base.errors import UserError
from megatron_math.estimate.activations import layer_bytes_per_token, working_bytes_per_token
from megatron_math.estimate.hardware import Gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.weights import stage_weights
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
        gradients = (held.trained + held.trained_experts) * layout.gradient_bytes
        state = 2 * layout.moment_bytes
        state += 0 if layout.precision == "fp32" else layout.master_bytes
        optimizer = -(-state * held.trained // layout.shards)
        optimizer += -(-state * held.trained_experts // layout.expert_shards)
    activations = (
        in_flight_layers(model, layout, stage) * tokens * layer_bytes_per_token(model, layout)
    )
    logits = 0
    if stage == layout.pipeline - 1:
        per_token = LOSS_BYTES[layout.loss] * (-(-model.padded_vocab_size // layout.tensor))
        around = layout.tensor if layout.sequence else 1
        logits = tokens * (per_token + 2 * size * model.hidden_size // around)
    working = gathered + tokens * working_bytes_per_token(model, layout)
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
        "weights": "raise tensor, pipeline or, of a model with experts, expert",
        "gradients": "raise tensor, pipeline or, of a model with experts, expert",
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
    """One distributed checkpoint: every weight once; of what is trained its master copy and two
    moments, too."""
    parameters = model.num_parameters()
    padding = (model.padded_vocab_size - model.vocab_size) * model.hidden_size
    parameters += padding * (1 if model.tied_embeddings else 2)
    master = 0 if layout.precision == "fp32" else layout.master_bytes
    state = master + 2 * layout.moment_bytes
    if layout.lora is None:
        return parameters * (layout.element_bytes + state)
    adapters = layout.lora.num_parameters(model)
    return parameters * layout.element_bytes + adapters * (layout.element_bytes + state)


def _gib(count: float) -> str:
    return f"{count / 1024**3:,.1f} GiB"
