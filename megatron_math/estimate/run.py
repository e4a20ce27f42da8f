"""From a road file to an estimate: what the verb computes, without printing.

Reads the sections base, model, parallel, precision, train and blend, and nothing else on disk but
the base's config.json.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, Tokens, resolve
from megatron_math.convert.base_model import shape_of_base
from megatron_math.estimate.activations import layer_bytes_per_token
from megatron_math.estimate.hardware import Gpu, Precision
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import Memory, checkpoint_bytes, rank_memory
from megatron_math.estimate.search import RECOMPUTE
from megatron_math.estimate.speed import Speed, estimate_speed
from megatron_math.model.config import ModelConfig
from megatron_math.train.config import ParallelConfig, PrecisionConfig, TrainConfig

STORAGE_BYTES_PER_SECOND_PER_NODE = 2e9
"""Assumed where nothing is said: what one node writes to a shared file system."""


@dataclass(frozen=True)
class Run:
    """What a road asks for: a model, a layout, and the tokens of all its stages (None: unknown)."""

    model: ModelConfig
    layout: Layout
    tokens: int | None


@dataclass(frozen=True)
class Estimate:
    """Everything the verb prints. `stage` is the pipeline stage of the fullest rank."""

    run: Run
    gpu: Gpu
    memory: Memory
    stage: int
    speed: Speed
    days: float | None
    gpu_hours: float | None
    energy_kwh: float | None
    """Of the GPU boards at their power limit; no servers, no cooling."""
    cost: float | None
    checkpoint_bytes: int
    checkpoint_seconds: float

    def layer_bytes(self) -> dict[str, int]:
        """What one layer keeps of one micro-batch on one rank, by recompute mode."""
        layout = self.run.layout
        return {
            mode: layout.tokens_per_micro_batch
            * layer_bytes_per_token(self.run.model, replace(layout, recompute=mode))
            for mode in RECOMPUTE
        }

    def assumptions(self) -> list[str]:
        """What the figures take for granted of this model and this training, in words."""
        model, layout = self.run.model, self.run.layout
        found = []
        if model.num_experts is not None:
            busiest = min(model.num_experts // layout.expert, model.experts_per_token or 1)
            worst = busiest * layout.expert / (model.experts_per_token or 1)
            found.append(
                f"the {model.num_experts} experts of a layer are equally busy"
                + (f"; at worst one rank has {worst:g} times as many tokens" if worst > 1 else "")
            )
        if layout.lora is not None:
            found.append(
                f"{layout.lora.num_parameters(model):,} of {model.num_parameters():,} parameters "
                "are trained, beside the torch layers: Transformer Engine's take no adapters"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Every figure by name, with its unit; `mfu` is of the dense peak, attention half."""
        speed = asdict(self.speed)
        step = speed.pop("step") | {"total": self.speed.step.total}
        facts = speed | {
            name: getattr(self, name)
            for name in ("days", "gpu_hours", "energy_kwh", "cost", "checkpoint_bytes",
                         "checkpoint_seconds")
        }  # fmt: skip
        limits = {"total": self.memory.total, "gpu": self.gpu.memory_bytes}
        return facts | {
            "gpu": self.gpu.name,
            "layout": self.run.layout.to_json(),
            "assumptions": self.assumptions(),
            "tokens": self.run.tokens,
            "memory_bytes": asdict(self.memory) | limits,
            "layer_activation_bytes": self.layer_bytes(),
            "fullest_pipeline_stage": self.stage,
            "step_seconds": step,
        }


def read_road(
    road: Road, gpus: int | None = None, precision: Precision | None = None, tokens: str = ""
) -> Run:
    """The road's model, layout and tokens; the three options stand above the file.

    Of several stages the one with the longest sequences is estimated, in its own batch; fp16 as
    bf16. UserError where the road leaves out what is needed.
    """
    for name, holds in (("train", "the batch sizes"), ("blend", "sequence length and tokens")):
        if not road.has(name):
            raise UserError(f"{road.yaml_path} has no section '{name}', which holds {holds}")
    train = road.section("train", TrainConfig)
    stages = resolve(road.section("blend", BlendConfig))
    longest = max(stages, key=lambda stage: stage.sequence_length)
    batch = train.of_stage(longest.name)
    section = road.section("parallel", ParallelConfig)
    parallel = section.model_dump()
    numbers = road.section("precision", PrecisionConfig)
    model = shape_of_base(road)
    _refuse_untrained(model, train, numbers, precision)
    fused = numbers.spec != "torch" and train.lora is None  # see `Estimate.assumptions`
    world = gpus or section.model * (section.replicas or 1)
    layout = Layout(
        gpus=world,
        sequence_length=longest.sequence_length,
        global_batch=batch.global_batch_size,
        micro_batch=batch.micro_batch_size,
        tensor=section.tensor,
        pipeline=section.pipeline,
        virtual=section.virtual,
        context=section.context,
        expert=section.expert,
        sequence=section.sequence,
        first_stage_layers=parallel.get("first_stage_layers"),
        last_stage_layers=parallel.get("last_stage_layers"),
        recompute=parallel.get("recompute", "none"),
        overlap=parallel.get("overlap", False),
        precision=precision or _precision(numbers),
        fp8_weights=numbers.fp8 is not None and numbers.fp8.parameters,
        fused=fused,
        attention="flash3" if fused else "flash2",
        lora=train.lora,
    )
    budgets = [stage.tokens for stage in stages]
    known = None if None in budgets else sum(budget or 0 for budget in budgets)
    return Run(model, layout, _tokens(tokens) if tokens else known)


def estimate(
    run: Run,
    gpu: Gpu,
    price: float | None = None,
    storage_bytes_per_second: float | None = None,
) -> Estimate:
    """All figures of one layout. `price` is of one GPU-hour, in any currency.

    UserError for a layout that cannot be run; one that does not fit is estimated all the same
    (`memory.check_fit` refuses).
    """
    run.layout.check(run.model)
    memory, stage = rank_memory(run.model, run.layout)
    speed = estimate_speed(run.model, run.layout, gpu)
    gpu_hours = None
    if run.tokens is not None:
        gpu_hours = run.tokens / speed.tokens_per_second_per_gpu / 3600
    nodes = -(-run.layout.gpus // gpu.gpus_per_node)
    storage = storage_bytes_per_second or STORAGE_BYTES_PER_SECOND_PER_NODE * nodes
    size = checkpoint_bytes(run.model, run.layout)
    return Estimate(
        run=run,
        gpu=gpu,
        memory=memory,
        stage=stage,
        speed=speed,
        days=None if gpu_hours is None else gpu_hours / run.layout.gpus / 24,
        gpu_hours=gpu_hours,
        energy_kwh=None if gpu_hours is None else gpu_hours * gpu.watts / 1000,
        cost=None if gpu_hours is None or price is None else gpu_hours * price,
        checkpoint_bytes=size,
        checkpoint_seconds=size / storage,
    )


def _refuse_untrained(
    model: ModelConfig, train: TrainConfig, numbers: PrecisionConfig, precision: Precision | None
) -> None:
    """UserError for what training refuses as well."""
    if train.lora is not None:
        train.lora.check(model)
        if numbers.spec == "te":
            raise UserError(
                "precision.spec te takes no adapters, and the road has train.lora; set "
                "precision.spec to torch"
            )
    for what, found in (("train.lora", train.lora), ("experts", model.num_experts)):
        if found is not None and (numbers.fp8 is not None or precision in ("fp8", "mxfp8")):
            raise UserError(
                f"fp8 does not go with {what} yet: training refuses it; leave precision.fp8 and "
                "--precision fp8 out"
            )


def _precision(numbers: PrecisionConfig) -> Precision:
    if numbers.fp8 is not None and numbers.fp8.backend == "te":
        return "fp8"  # emulated, it is no faster than the rest
    return "fp32" if numbers.dtype == "fp32" else "bf16"


def _tokens(text: str) -> int:
    try:
        return TypeAdapter(Tokens).validate_python(text)
    except ValidationError:
        raise UserError(f"--tokens {text}: a whole number, with k, M, B or T if wanted") from None
