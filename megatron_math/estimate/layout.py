"""Layout: how a run is spread over GPUs, and how many layers each pipeline stage holds.

Ranks are numbered as Megatron-Core does: tensor changes fastest, then context, data, pipeline. The
experts of a layer are whole and are dealt out among all ranks that hold it, neighbours first.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import AttentionKernel, Precision
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import LoraConfig

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
    expert: int = 1
    """Ways the experts of a layer are dealt out; tensor, context and data ranks all take some."""
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
    lora: LoraConfig | None = None
    """Adapters that are trained in place of all weights."""

    @property
    def data(self) -> int:
        """Replicas."""
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def shards(self) -> int:
        """Ways the optimizer's state is cut: replicas and context ranks hold the same weights."""
        return self.data * self.context

    @property
    def expert_shards(self) -> int:
        """Ways the optimizer's state of one expert is cut: the ranks that hold this expert."""
        return self.gpus // self.pipeline // self.expert

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
        return self._fault_of_experts(model) or self._fault_of_adapters(model)

    def _fault_of_experts(self, model: ModelConfig) -> str | None:
        experts = model.num_experts
        if experts is None:
            return f"expert {self.expert} of a model without experts" if self.expert > 1 else None
        if experts % self.expert:
            return f"expert {self.expert} does not divide the {experts} experts of a layer"
        if self.gpus // self.pipeline % self.expert:
            on_one_stage = self.gpus // self.pipeline
            return f"expert {self.expert} does not divide the {on_one_stage} GPUs of a stage"
        if self.tensor > 1 and not (self.sequence and self.expert > 1):
            return (
                f"tensor {self.tensor} of a model with experts needs sequence parallelism and "
                "expert 2 or more: experts are whole, and take tokens that are cut"
            )
        return self._fault_of_trainer("experts")

    def _fault_of_adapters(self, model: ModelConfig) -> str | None:
        if self.lora is None:
            return None
        inside = [target for target in self.lora.targets if target in ("fc1", "fc2")]
        if inside and model.num_experts is not None:
            return (
                f"train.lora adapts {' and '.join(inside)}, and experts take no adapters; set "
                "train.lora.targets to [qkv, proj]"
            )
        return self._fault_of_trainer("adapters")

    def _fault_of_trainer(self, what: str) -> str | None:
        """Full sharding and recomputation by operators are of other trainers, measured dense."""
        if self.sharding == "full" or self.recompute == "operators":
            return f"{what} under full sharding or recompute operators are not estimated"
        return None

    def check(self, model: ModelConfig) -> None:
        """UserError for a layout that cannot be run at all."""
        fault = self.fault(model)
        if fault is not None:
            raise UserError(f"this layout cannot be run: {fault}")

    def to_json(self) -> dict[str, Any]:
        """Every field by name, as JSON types."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        return facts | {"lora": None if self.lora is None else self.lora.model_dump(mode="json")}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """What `to_json` wrote; fields that are left out have their defaults."""
        lora = facts.get("lora")
        return cls(**(facts | {"lora": None if lora is None else LoraConfig(**lora)}))
