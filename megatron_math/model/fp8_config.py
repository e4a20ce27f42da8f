"""`precision.fp8`: recipe, backend, and the seat belt: what cannot work is refused before a start.

Facts are from Transformer Engine 2.11 and megatron-core 0.16.1, whose files are named where they
are used, and from public issues: NVIDIA/Megatron-LM as MLM#, NVIDIA/TransformerEngine as TE#. This
module loads no torch.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.device.grid import Grid
from megatron_math.model.config import ModelConfig

DEFAULT_AMAX_HISTORY = 1024
"""Transformer Engine's (common/recipe); megatron-core's own default is 1."""
SHORT_AMAX_HISTORY = 16
"""Below it Transformer Engine's maintainers ask for more care (TE#1169)."""


class Fp8Config(Section):
    """The linear layers of the decoder in FP8, forward E4M3; embedding, output layer, norms and
    attention stay in `precision.dtype`. May be switched on and off at a checkpoint."""

    recipe: Literal["delayed", "tensorwise", "blockwise"]
    """Where a scale comes from. delayed: the largest value of earlier passes, one scale a tensor,
    gradients in E5M2; tensorwise: the tensor at hand, gradients in E5M2; blockwise: 1 x 128 values
    (weights 128 x 128), powers of two, gradients in E4M3."""
    backend: Literal["te", "emulate"] = "te"
    """te: Transformer Engine on a GPU. emulate: the same arithmetic in plain torch on any device,
    slower than bf16: a rehearsal."""
    margin: int | None = Field(None, ge=0)
    """delayed only: scales are smaller by 2^margin. Left out: 0."""
    amax_history: int | None = Field(None, ge=1)
    """delayed only: forward passes whose largest value counts; 1 is what others call most_recent.
    Left out: 1,024."""
    first_layers_bf16: int = Field(0, ge=0)
    """Layers at the start that stay in `precision.dtype`."""
    last_layers_bf16: int = Field(0, ge=0)
    """Layers at the end that stay in `precision.dtype`."""
    parameters: bool = False
    """te only: the weights themselves are in FP8 and travel so between replicas."""
    shadow_interval: Annotated[int | None, LOCATION] = Field(None, ge=1)
    """Every so many iterations the forward pass is done without FP8 too, and the relative gap of
    the two losses is written down as fp8/loss-gap. Changes nothing else."""

    @model_validator(mode="after")
    def _effective(self) -> "Fp8Config":
        if self.recipe != "delayed":
            for name in ("margin", "amax_history"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect with recipe: {self.recipe}")
        elif self.first_layers_bf16 or self.last_layers_bf16:
            raise ValueError(
                "recipe delayed updates all scales when the outermost region ends, so single "
                "layers cannot be left out (megatron-core: fp8_utils.get_fp8_context); take "
                "recipe tensorwise or blockwise, or no first_layers_bf16 and last_layers_bf16"
            )
        if self.parameters and self.backend == "emulate":
            raise ValueError("parameters has no effect with backend: emulate")
        return self

    @property
    def history_length(self) -> int:
        return self.amax_history or DEFAULT_AMAX_HISTORY

    def is_fp8_layer(self, index: int, num_layers: int) -> bool:
        """Whether layer `index`, counted from 0 over the whole model, computes in FP8."""
        return self.first_layers_bf16 <= index < num_layers - self.last_layers_bf16

    def refuse_dtype(self, dtype: str, spec: str) -> None:
        """Raise ValueError where `precision.dtype` or `precision.spec` does not go with FP8."""
        if dtype == "fp16":
            raise ValueError(
                "fp8 does not go with dtype: fp16: the cast to FP8 saturates, so a gradient that "
                "overflowed is finite again and the loss scale never comes down; take bf16"
            )
        if self.backend == "te" and dtype != "bf16":
            raise ValueError(
                f"fp8 with backend: te does not go with dtype: {dtype}: its attention over packed "
                "documents has half-precision kernels only; take bf16"
            )
        wanted = "te" if self.backend == "te" else "torch"
        if spec not in ("auto", wanted):
            raise ValueError(f"fp8 with backend: {self.backend} needs spec: {wanted} or auto")

    def refuse_sizes(
        self, model: ModelConfig, grid: Grid, micro_batch_size: int, sequence_length: int
    ) -> None:
        """Raise UserError for layers or sizes that FP8 matrix products cannot take.

        The emulation could take some of them, and refuses them too: it is a rehearsal.
        """
        in_bf16 = self.first_layers_bf16, self.last_layers_bf16
        if sum(in_bf16) >= model.num_layers:
            raise UserError(
                f"precision.fp8 leaves the first {in_bf16[0]} and last {in_bf16[1]} of "
                f"{model.num_layers} layers in bf16, so nothing is in FP8; lower them"
            )
        if max(in_bf16) > model.num_layers // grid.pipeline:
            raise UserError(
                f"precision.fp8: megatron-core allows as many bf16 layers at either end as a "
                f"pipeline stage has ({model.num_layers // grid.pipeline}), and {max(in_bf16)} "
                "were asked (TransformerConfig.__post_init__)"
            )
        self._refuse_widths(model, grid)
        ways = grid.context * (grid.tensor if grid.sequence else 1)
        tokens = micro_batch_size * sequence_length // ways
        # Forward: rows a multiple of 8 (pytorch/utils.py, assert_dim_for_fp8_exec). The gradient
        # of the weights is summed over the rows, and what is summed over comes in 16s (TE#317).
        # Blocks of 128 rows must not be cut where ranks exchange them quantised
        # (tensor/float8_blockwise_tensor.py, is_quantizable).
        unit = 128 if self.recipe == "blockwise" and grid.sequence else 16
        if tokens % unit:
            raise UserError(
                f"FP8 matrix products need a multiple of {unit} tokens on each rank, and "
                f"micro_batch_size {micro_batch_size} x {sequence_length} tokens cut {ways} ways "
                f"is {tokens}; change sequence length, micro-batch or layout"
            )
        if self.recipe == "delayed" and self.history_length < SHORT_AMAX_HISTORY:
            log.warning(
                "precision.fp8.amax_history %d: so short a memory saturates at the first outlier; "
                "validate the loss against bf16 (shadow_interval), or take 1024",
                self.history_length,
            )

    def _refuse_widths(self, model: ModelConfig, grid: Grid) -> None:
        """Every width of a weight, cut over the tensor ranks, must be a multiple of 16."""
        heads = model.num_attention_heads * model.head_dim
        groups = max(model.num_query_groups, grid.tensor)  # fewer are repeated on the ranks
        widths = {
            "hidden_size": (model.hidden_size, 1),
            "ffn_hidden_size": (model.ffn_hidden_size, grid.tensor),
            "num_attention_heads x head_dim": (heads, grid.tensor),
            "queries, keys and values": (heads + 2 * groups * model.head_dim, grid.tensor),
        }
        unit = 128 if self.recipe == "blockwise" and grid.sequence else 16
        for name, (width, ways) in widths.items():
            if width // ways % (unit if name == "hidden_size" else 16):
                raise UserError(
                    f"FP8 matrix products need widths that are multiples of {unit} on each rank "
                    f"(TE#1422), and {name} {width} / tensor {ways} = {width // ways} is not; "
                    "change parallel.tensor, or train this model without precision.fp8"
                )
