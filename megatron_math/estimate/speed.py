"""Time of one optimizer step, term by term, and what follows from it.

Every term is work over a rated speed times the share of it that kernels reach (`hardware.Shares`).
Matrix products and attention: FLOPs (Narayanan et al. 2021, arXiv 2104.04473, appendix).
Elementwise kernels and the optimizer: bytes moved. Collectives: a ring moves (n - 1) / n of the
data once to gather or to reduce-scatter, twice to all-reduce (Patarasuk and Yuan 2009). Experts
are taken to be equally busy, and tokens go to them and back while nothing is computed. Bubble:
Narayanan et al. 2021, section 2.2. What runs beside computation counts only where it takes longer
than what it hides behind.
"""

from dataclasses import asdict, dataclass

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import Gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import LOSS_BYTES
from megatron_math.estimate.weights import StageWeights, linear_parameters, stage_weights
from megatron_math.model.config import ModelConfig
from megatron_math.model.flops import attended_tokens, training_flops_per_token

UNFUSED_PASSES = 3
"""Passes over memory of an elementwise chain in plain torch for one of a fused kernel: fp32 copies
around the norm, complex rotary positions, SwiGLU as two kernels."""
TENSOR_HIDDEN = 0.5
"""Of tensor-parallel traffic, what pipelined matrix products hide; with sequence parallel only."""
CAST_BYTES = 7
"""Of one fp8 operand: read for its largest value, read and written as fp8, read and transposed."""
ATTENTION_BACKWARD = 2.5
"""Backward over forward: five products for two (Dao 2023, arXiv 2307.08691, section 4.1)."""
DISPATCH_MOVES = 4
"""Of one dispatched token: read and written on its way out of the sequence and back into it; as
many again where a rank has several experts and sorts their tokens."""
ADAPTER_MOVES = 6
"""Of the inputs and of the outputs of an adapted map, in elements read or written: its products are
too narrow to be bound by anything else, and its update is added in a kernel of its own."""


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one step on the slowest rank; they add up to the step."""

    matmul: float
    attention: float
    elementwise: float
    tensor_links: float
    expert_links: float
    """Tokens on their way to the experts of other ranks, and back."""
    context_links: float
    pipeline_links: float
    bubble: float
    data_links: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Speed:
    """A step's terms and the rates that follow."""

    step: StepSeconds
    bubble_share: float
    """Idle time over busy time of the pipeline."""
    tokens_per_second_per_gpu: float
    tflops_causal: float
    """A GPU, half of attention counted; Megatron-Bridge's convention."""
    tflops_full: float
    """A GPU, all of attention counted; torchtitan's and older NeMo's."""
    mfu: float
    """tflops_causal over the dense peak of the precision in use."""


def estimate_speed(model: ModelConfig, layout: Layout, gpu: Gpu) -> Speed:
    """The step of a layout that `Layout.check` passed. UserError: the GPU lacks a type."""
    if layout.precision not in gpu.peak_flops.keys() & gpu.reached.matmul.keys():
        raise UserError(
            f"{gpu.name} has no {layout.precision} rate; it has {', '.join(gpu.reached.matmul)}"
        )
    stages = [_micro_batch(model, layout, gpu, stage) for stage in range(layout.pipeline)]
    slowest = max(stages, key=lambda seconds: sum(seconds.values()))
    one = sum(slowest.values())
    count = layout.micro_batches
    bubble_share = (layout.pipeline - 1) / (layout.virtual * count)
    each = [stage_weights(model, layout, s) for s in range(layout.pipeline)]
    held = max(each, key=lambda weights: weights.trained + weights.trained_experts)
    computing = slowest["matmul"] + slowest["attention"] + slowest["elementwise"]
    traffic = _replica_seconds(held, layout, gpu)
    if layout.sharding == "full":  # gathers twice and reduces in every micro-batch
        data_links = count * _exposed(traffic, computing, layout)
    else:  # reduces in the last backward pass, gathers in the next forward pass
        data_links = _exposed(traffic, computing, layout)
    # Read and written: master, moments; read: the gradient, twice with its norm; written: weights.
    touched = 2 * (layout.master_bytes + 2 * layout.moment_bytes) + 2 * layout.gradient_bytes + 2
    state = held.trained / layout.shards + held.trained_experts / layout.expert_shards
    step = StepSeconds(
        **{name: count * seconds for name, seconds in slowest.items()},
        bubble=bubble_share * count * one,
        data_links=data_links,
        optimizer=touched * state / _memory_speed(gpu),
    )
    tokens = layout.global_batch * layout.sequence_length / step.total / layout.gpus
    length, lora = layout.sequence_length, layout.lora
    causal = training_flops_per_token(model, length, lora=lora)
    full = training_flops_per_token(model, length, "full", lora=lora)
    return Speed(
        step=step,
        bubble_share=bubble_share,
        tokens_per_second_per_gpu=tokens,
        tflops_causal=tokens * causal / 1e12,
        tflops_full=tokens * full / 1e12,
        mfu=tokens * causal / gpu.peak_flops[layout.precision],
    )


def _micro_batch(model: ModelConfig, layout: Layout, gpu: Gpu, stage: int) -> dict[str, float]:
    """Seconds of one micro-batch, forward and backward, on one rank of a stage, by term."""
    attention = _attention(model, layout, gpu, stage)
    tensor_links, ring, pipeline_links = _links(model, layout, gpu, stage)
    moved = _elementwise_bytes(model, layout, stage) + _adapter_bytes(model, layout, stage)
    return {
        "matmul": _matmul(model, layout, gpu, stage),
        "attention": attention,
        "elementwise": moved / _memory_speed(gpu),
        "tensor_links": tensor_links,
        "expert_links": _exchange(model, layout, gpu, stage),
        "context_links": max(0.0, ring - attention),
        "pipeline_links": pipeline_links,
    }


def _matmul(model: ModelConfig, layout: Layout, gpu: Gpu, stage: int) -> float:
    """Seconds in the layers' matrix products and, in bf16 also for fp8 runs, the output layer's."""
    hidden, weights = model.hidden_size, linear_parameters(model)
    passes = 3.0 if layout.lora is None else 2.0  # frozen weights have no gradient
    last = 2 * passes
    if layout.recompute == "full":
        passes += 1
    elif layout.recompute == "operators":  # key, output and up projections are made again
        key_value = model.num_query_groups * model.head_dim
        query = model.num_attention_heads * model.head_dim
        passes += hidden * (key_value + query + model.ffn_hidden_size) / weights
    work = passes * weights
    if layout.lora is not None:
        work += (passes + 1) * layout.lora.num_parameters(model) / model.num_layers
    linear = 2 * work * layout.stage_layers(model)[stage]
    seconds = linear / _matmul_speed(gpu, layout.precision)
    if stage == layout.pipeline - 1:
        precision = "fp32" if layout.precision == "fp32" else "bf16"
        seconds += last * hidden * model.padded_vocab_size / _matmul_speed(gpu, precision)
    return layout.tokens_per_micro_batch * seconds / layout.tensor


def _attention(model: ModelConfig, layout: Layout, gpu: Gpu, stage: int) -> float:
    """Seconds in the fused kernel, which makes its scores again in the backward pass."""
    query = model.num_attention_heads * model.head_dim
    forward = 4 * query * attended_tokens(model, layout.sequence_length) / layout.tensor
    again = 1 if layout.recompute in ("selective", "full") else 0
    if layout.precision == "fp32":
        speed = _matmul_speed(gpu, "fp32")
    else:
        share = gpu.reached.attention[layout.attention]
        speed = gpu.peak_flops["bf16"] * gpu.clock_share * share
    flops = layout.stage_layers(model)[stage] * forward * (1 + ATTENTION_BACKWARD + again)
    return layout.tokens_per_micro_batch * flops / speed


def _elementwise_bytes(model: ModelConfig, layout: Layout, stage: int) -> float:
    """Bytes read and written outside the products: norms and residual sums, rotary positions,
    SwiGLU, casts to fp8, the loss, and the gradients that each micro-batch adds to."""
    hidden, inner, size = model.hidden_size, model.ffn_hidden_size, layout.element_bytes
    heads = (model.num_attention_heads + model.num_query_groups) * model.head_dim
    around = layout.tensor if layout.sequence else 1
    chosen = model.experts_per_token or 1
    inner *= chosen  # with experts, tokens are cut over tensor ranks and matrices are not
    first_pass = 10 * hidden / around + (2 * heads + 3 * inner) / layout.tensor
    second_pass = 12 * hidden / around + (2 * heads + 5 * inner) / layout.tensor
    repeats = 2 if layout.recompute in ("operators", "full") else 1
    moved = size * (repeats * first_pass + second_pass) * (1 if layout.fused else UNFUSED_PASSES)
    if model.num_experts is not None:
        sorts = 2 if model.num_experts > layout.expert else 1
        moved += size * (repeats + 1) * sorts * DISPATCH_MOVES * chosen * hidden / around
    if layout.is_fp8:
        products = (2 + 2 * chosen) * hidden / around
        moved += CAST_BYTES * (products + (2 * heads + 3 * inner) / layout.tensor)
    moved *= layout.stage_layers(model)[stage]
    if stage == layout.pipeline - 1:
        moved += 2 * LOSS_BYTES[layout.loss] * model.padded_vocab_size / layout.tensor
    held = stage_weights(model, layout, stage)
    gradients = 2 * layout.gradient_bytes * (held.trained + held.trained_experts)
    return layout.tokens_per_micro_batch * moved + gradients


def _adapter_bytes(model: ModelConfig, layout: Layout, stage: int) -> float:
    """Bytes that adapters read and write beside their maps."""
    if layout.lora is None:
        return 0.0
    widths = layout.lora.widths(model).values()
    elements = ADAPTER_MOVES * sum(inputs + outputs for inputs, outputs in widths) / layout.tensor
    elements *= layout.tokens_per_micro_batch * layout.stage_layers(model)[stage]
    return layout.element_bytes * elements


def _links(model: ModelConfig, layout: Layout, gpu: Gpu, stage: int) -> tuple[float, float, float]:
    """Seconds of tensor sums, of the ring of keys and values, and of sends between stages."""
    layers, ways = layout.stage_layers(model)[stage], layout.tensor
    activation = layout.tokens_per_micro_batch * model.hidden_size * layout.element_bytes
    sums = 6 if layout.recompute == "full" else 4
    if model.num_experts is not None:  # around attention alone: experts are whole
        sums //= 2
    tensor = layers * sums * 2 * (ways - 1) / ways * activation / _link_speed(gpu, 1, ways)
    if layout.overlap and layout.sequence:
        tensor *= 1 - TENSOR_HIDDEN
    pair = 2 * model.num_query_groups * model.head_dim * layout.element_bytes / ways
    passed = 3 * (layout.context - 1) * layout.tokens_per_micro_batch * pair  # back: gradients too
    ring = layers * passed / _link_speed(gpu, layout.tensor, layout.context)
    between = 0.0
    if layout.pipeline > 1 and layout.virtual == 1:  # interleaved, core sends beside computation
        sent = 2 * activation / (layout.tensor if layout.sequence else 1)
        between = sent / _link_speed(gpu, layout.gpus // layout.pipeline, layout.pipeline)
    return tensor, ring, between


def _exchange(model: ModelConfig, layout: Layout, gpu: Gpu, stage: int) -> float:
    """Seconds in which tokens go to their experts and back, forward and backward.

    Between nodes each GPU sends through its own card, while the others of its node are reached
    beside that.
    """
    ways = layout.expert
    if model.experts_per_token is None or ways == 1:
        return 0.0
    trips = 6 if layout.recompute == "full" else 4
    token = model.experts_per_token * model.hidden_size * layout.element_bytes
    sent = trips * token * layout.tokens_per_micro_batch / layout.tensor
    near = min(ways, gpu.gpus_per_node)
    within = (near - 1) / ways / gpu.node_bytes_per_second
    between = (ways - near) / ways / gpu.network_bytes_per_second
    seconds = sent * max(within, between) / gpu.reached.link
    return layout.stage_layers(model)[stage] * seconds


def _replica_seconds(held: StageWeights, layout: Layout, gpu: Gpu) -> float:
    """Reducing gradients and gathering weights over replicas once, nothing hidden."""
    gathered = layout.element_bytes * (2 if layout.sharding == "full" else 1)
    seconds = 0.0
    for weights, ways, stride in (
        (held.trained, layout.shards, layout.tensor),
        (held.trained_experts, layout.expert_shards, layout.expert),
    ):
        moved = (ways - 1) / ways * weights * (layout.gradient_bytes + gathered)
        seconds += moved / _link_speed(gpu, stride, ways)
    return seconds


def _exposed(traffic: float, computing: float, layout: Layout) -> float:
    return max(0.0, traffic - computing) if layout.overlap else traffic


def _matmul_speed(gpu: Gpu, precision: str) -> float:
    peak, share = gpu.peak_flops[precision], gpu.reached.matmul[precision]  # type: ignore[index]
    return peak * gpu.clock_share * share


def _memory_speed(gpu: Gpu) -> float:
    return gpu.memory_bytes_per_second * gpu.reached.memory


def _link_speed(gpu: Gpu, stride: int, ways: int) -> float:
    """Bytes per second and GPU around a ring of `ways` ranks that are `stride` ranks apart.

    A ring that leaves the node goes through the network cards of all its members there.
    """
    if ways == 1 or stride * ways <= gpu.gpus_per_node:
        return gpu.node_bytes_per_second * gpu.reached.link
    cards = max(1, gpu.gpus_per_node // stride)
    rated = min(gpu.node_bytes_per_second, cards * gpu.network_bytes_per_second)
    return rated * gpu.reached.link
