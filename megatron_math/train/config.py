"""What a training run is told: the sections train, parallel, precision and checkpoint."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.device.grid import Grid
from megatron_math.model.fp8_config import Fp8Config
from megatron_math.model.lora_config import LoraConfig

DEFAULT_BALANCE_COEFFICIENT = 0.01
"""Fedus et al. 2021, section 2.2."""


class ParallelConfig(Grid):
    """How the model is spread over processes. None of it changes the result, only the speed."""

    replicas: int | None = Field(None, ge=1, alias="data")
    """Replicas. Left out: what the world size leaves; on a local start all GPUs, or 1 on CPU."""
    first_stage_layers: int | None = Field(None, ge=1)
    """Layers of the first pipeline stage, which has the embedding too; the rest share evenly."""
    last_stage_layers: int | None = Field(None, ge=1)
    """Layers of the last pipeline stage, which has the output layer too."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again to save memory: attention, or whole layers."""
    overlap: bool = True
    """Send gradients and weights of replicas while others are computed; off to look for a fault."""

    def identity(self) -> dict[str, Any]:
        return {}

    @property
    def grid(self) -> Grid:
        return Grid.model_validate({name: getattr(self, name) for name in Grid.model_fields})

    @model_validator(mode="after")
    def _uneven_stages(self) -> "ParallelConfig":
        uneven = self.first_stage_layers is not None or self.last_stage_layers is not None
        if uneven and self.pipeline == 1:
            raise ValueError("first_stage_layers and last_stage_layers have no effect, pipeline 1")
        if uneven and self.virtual > 1:
            raise ValueError("first_stage_layers and last_stage_layers do not go with virtual > 1")
        return self


Schedule = Literal["cosine", "wsd", "multistep", "constant"]


class PrecisionConfig(Section):
    """fp32, or half-precision weights and activations with fp32 gradients and master weights."""

    dtype: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of weights and activations; gradients, moments and master weights are fp32 in all of them."""
    loss_scale: float | None = Field(None, gt=0)
    """fp16 only: what the loss is multiplied by before the backward pass, so that small gradients
    are not lost. Left out: from 1,024 on halved where a gradient overflows (the step is skipped
    then) and doubled after 1,000 steps without."""
    spec: Literal["auto", "torch", "te"] = "auto"
    """Layers of our own on plain torch, or Transformer Engine's; auto takes what is there."""
    fp8: Fp8Config | None = None
    """Linear layers in FP8. A run that is not finished may change it and goes on."""

    def identity(self) -> dict[str, Any]:
        """Without FP8 that of the time before it was known."""
        return {k: v for k, v in super().identity().items() if k != "fp8" or v is not None}

    @model_validator(mode="after")
    def _scaled(self) -> "PrecisionConfig":
        if self.loss_scale is not None and self.dtype != "fp16":
            raise ValueError(f"loss_scale has no effect with dtype: {self.dtype}")
        if self.fp8 is not None:
            self.fp8.refuse_dtype(self.dtype, self.spec)
        return self


class WandbConfig(Section):
    """Weights & Biases, only when this section is given. `offline` needs no network."""

    project: str
    name: str | None = None
    mode: Literal["online", "offline"] = "offline"


class ProfileConfig(Section):
    """A trace of a few steps, in 50_train/profile/; other steps and the result stay as they are."""

    first: int = Field(10, ge=1)
    """The first recorded step, counted in this launch; those before it warm up."""
    steps: int = Field(3, ge=1)
    ranks: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    tool: Literal["torch", "nsys"] = "torch"
    """torch writes traces itself; nsys, GPU only, is run around the command, as `nsys profile
    --capture-range=cudaProfilerApi --capture-range-end=stop --trace=cuda,nvtx`."""


class StageConfig(Section):
    """A stage of blend with a schedule of its own; what is left out is the run's.

    With `schedule` the run's min_lr and decay_share, which belong to the run's, are not taken.
    """

    weights: Literal["last", "best", "base"] = "last"
    """What the stage begins with: the weights that the one before ended with, those of its
    checkpoint with the lowest validation loss, or those that the run began with."""
    best_of: int | None = Field(None, ge=1)
    """With weights: best, how many of the last checkpoints are looked at; left out: all."""
    optimizer: Literal["carried", "fresh"] = "carried"
    """Moments of the same checkpoint, or none (and a loss scale from the start)."""
    global_batch_size: int | None = Field(None, ge=1)
    micro_batch_size: Annotated[int | None, LOCATION] = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    min_lr: float | None = Field(None, ge=0)
    schedule: Schedule | None = None
    warmup_share: float | None = Field(None, ge=0, lt=1)
    decay_share: float | None = Field(None, gt=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _begun(self) -> "StageConfig":
        if self.best_of is not None and self.weights != "best":
            raise ValueError(f"best_of has no effect with weights: {self.weights}")
        if self.weights == "base" and self.optimizer == "carried":
            raise ValueError("weights: base has no moments to carry; set optimizer: fresh")
        return self

    def settings(self) -> dict[str, Any]:
        """Fields of TrainConfig that are given here."""
        own = self.model_dump(exclude={"weights", "best_of", "optimizer"}, exclude_none=True)
        return ({"min_lr": 0.0, "decay_share": None} if self.schedule else {}) | own


class TrainConfig(Section):
    """One pass over the plan. Iterations follow from the plan's samples and the global batch."""

    global_batch_size: int = Field(..., ge=1)
    """Samples in one optimizer step, over all processes."""
    micro_batch_size: Annotated[int, LOCATION] = Field(1, ge=1)
    """Samples in one forward pass of one process; the rest is gradient accumulation."""
    lr: float = Field(..., gt=0)
    min_lr: float = Field(0.0, ge=0)
    schedule: Schedule = "cosine"
    warmup_share: float = Field(0.01, ge=0, lt=1)
    """Share of all iterations with a linearly rising rate."""
    decay_share: float | None = Field(None, gt=0, lt=1)
    """wsd only: share of all iterations in the linear decay at the end (default 0.15)."""
    weight_decay: float = Field(0.1, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    clip_grad: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 switches clipping off."""
    balance_coefficient: float | None = Field(None, ge=0)
    """Models with experts only: weight of the loss that keeps them equally busy (default 0.01)."""
    lora: LoraConfig | None = None
    """Train low-rank adapters in place of all weights; left out: all weights."""
    validation_interval: int = Field(100, ge=1)
    """Iterations between validation losses; one more comes at the start and at the end."""
    validation_samples: int = Field(32, ge=0)
    """Held-out samples per source in one validation; 0 switches it off."""
    log_interval: Annotated[int, LOCATION] = Field(1, ge=1)
    """Iterations between log lines; metrics.jsonl always has every one."""
    tensorboard: Annotated[bool, LOCATION] = True
    wandb: Annotated[WandbConfig | None, LOCATION] = None
    mock_data: Annotated[bool, LOCATION] = False
    """Random tokens in the plan's shapes, to price the loader: in 50_train_mock, never a result."""
    stop_after: Annotated[Annotated[int, Field(ge=1)] | str | None, LOCATION] = None
    """Stop on purpose after this iteration, or behind the stage of this name, with a checkpoint
    and exit code 75."""
    profile: Annotated[ProfileConfig | None, LOCATION] = None
    """Record a few steps; left out: none."""
    stages: dict[str, StageConfig] | None = None
    """By name, stages of blend with a schedule of their own; the others share one."""

    def of_stage(self, name: str) -> "TrainConfig":
        """The settings in force in a stage."""
        own = (self.stages or {}).get(name)
        return self if own is None else TrainConfig.model_validate(self._with(own))

    def _with(self, own: StageConfig) -> dict[str, Any]:
        return self.model_dump(exclude={"stages"}) | own.settings()

    @model_validator(mode="after")
    def _stages_effective(self) -> "TrainConfig":
        for name, own in (self.stages or {}).items():
            try:
                TrainConfig.model_validate(self._with(own))
            except ValueError as error:
                says = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
                raise ValueError(f"stages.{name}: {says}") from None
            if own.weights == "base" and self.lora is not None:
                raise ValueError(f"stages.{name}.weights: base is what adapters keep anyhow")
            if own.weights == "best" and not self.validation_samples:
                raise ValueError(f"stages.{name}.weights: best needs validation_samples")
        return self

    @model_validator(mode="after")
    def _effective(self) -> "TrainConfig":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if self.decay_share is not None and self.schedule != "wsd":
            raise ValueError(f"decay_share has no effect with schedule: {self.schedule}")
        if self.schedule in ("constant", "multistep") and self.min_lr:
            raise ValueError(f"min_lr has no effect with schedule: {self.schedule}")
        if self.schedule == "wsd" and self.warmup_share + (self.decay_share or 0.15) > 1:
            raise ValueError("warmup_share and decay_share together exceed the whole run")
        return self


class LocalConfig(Section):
    """Copies of the state that stay on the nodes: each rank's part on its own and on another."""

    folder: str = Field("/dev/shm", min_length=1)  # noqa: S108 - the run's folder in it is private
    """Of each node, in its memory or on its own disk; a folder of this run's is made in it."""
    interval: int = Field(50, ge=1)
    """Iterations between copies; none is begun while a checkpoint or a copy is being written."""


class CheckpointConfig(Section):
    """When the state goes to disk and how much of it stays there."""

    interval: Annotated[int, LOCATION] = Field(500, ge=1)
    """Iterations between checkpoints; the last iteration always has one."""
    keep: Annotated[int, LOCATION] = Field(3, ge=1)
    """Newest checkpoints that stay."""
    keep_every: Annotated[int | None, LOCATION] = Field(None, ge=1)
    """Checkpoints of iterations that are multiples of this stay, too."""
    keep_best: Annotated[int, LOCATION] = Field(0, ge=0)
    """So many checkpoints of the lowest validation loss stay, too; each has its loss taken."""
    asynchronous: Annotated[bool, LOCATION] = Field(True, alias="async")
    """Train on while a process beside each rank writes from a copy in memory; false: wait."""
    local: Annotated[LocalConfig | None, LOCATION] = None
    """Copies on the nodes between the checkpoints, from which a restart goes on; left out: none."""

    @model_validator(mode="after")
    def _local_effective(self) -> "CheckpointConfig":
        if self.local is not None and self.local.interval >= self.interval:
            raise ValueError(
                f"local.interval {self.local.interval} is not below interval {self.interval}: "
                f"checkpoints are as new as the copies would be"
            )
        if self.local is not None and not self.asynchronous:
            raise ValueError("local needs async: true, whose process hands copies to other nodes")
        return self
