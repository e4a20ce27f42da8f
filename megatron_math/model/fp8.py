"""FP8 in plain torch: what the recipes of Transformer Engine do to the numbers, on any device.

The four linear layers of a decoder layer get operands that were scaled, cast to 8 bits and scaled
back: input and weight in the forward product, gradient and weight in the product for the input,
gradient and input in the one for the weight. Products are summed in fp32 and rounded once, as
tensor cores do. Embedding, output layer, norms and attention are untouched.

The arithmetic was read in Transformer Engine 2.11; each function names its file. Knowingly
different: an input is cast from what the norm returns in half precision, not from inside the fused
norm, and validation leaves the history of delayed scaling alone.

Shapes: T tokens of all micro-batch rows (S*B), I input and O output width of this rank, N amax
history.
"""

import collections
import contextlib
import copy
import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core.parallel_state import get_amax_reduction_group
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.utils import make_sharded_object_for_checkpoint

from megatron_math.base.errors import UserError
from megatron_math.device.open import current_torch_device, device_kind
from megatron_math.model.fp8_config import Fp8Config

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
BLOCK = 128
STATE_NAME = "fp8_state"
"""Last part of the checkpoint keys with delayed scaling's state; `checkpoint.state` knows it."""


# --- Arithmetic ---------------------------------------------------------------------------------


def cast(values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """values * scale in fp32, rounded to the nearest 8-bit value; what is too large saturates.

    NaN stays NaN, an infinity becomes the largest value (PTX `cvt.rn.satfinite`).
    """
    largest = LARGEST[dtype]
    return (values.float() * scale).clamp_(-largest, largest).to(dtype)


def largest_magnitude(values: torch.Tensor) -> torch.Tensor:
    """amax: the largest absolute value, fp32 scalar; 0 of an empty tensor."""
    if values.numel() == 0:
        return torch.zeros((), device=values.device)
    low, high = torch.aminmax(values)
    return torch.maximum(low.abs(), high.abs()).float()


def current_scale(
    amax: torch.Tensor,
    dtype: torch.dtype,
    *,
    power_of_two: bool = False,
    at_most: float = torch.finfo(torch.float32).max,
) -> torch.Tensor:
    """Scale from the amax of the values themselves; any shape.

    1 where amax is 0, infinite or NaN; `at_most` where the quotient overflows; a power of two by
    dropping the mantissa (common/recipe/recipe_common.cuh, compute_scale_from_amax).
    """
    scale = (LARGEST[dtype] / amax).clamp_(max=at_most)
    if power_of_two:
        scale = (scale.view(torch.int32) & 0x7F800000).view(torch.float32)
    return torch.where(torch.isfinite(amax) & (amax > 0), scale, torch.ones_like(scale))


def delayed_update(
    history_N3: torch.Tensor, scale_3: torch.Tensor, largest_3: torch.Tensor, margin: int
) -> None:
    """Set the scales from the history, then roll it; in place.

    history_N3[0] holds the amax of the pass that has just ended. Where the largest amax of the
    window is 0 or not finite, the scale stays. Afterwards that pass is the last row and row 0 is 0
    (common/recipe/delayed_scaling.cu; the window of 1 is what Transformer Engine calls
    most_recent, longer ones its algorithm max).
    """
    amax_3 = history_N3.amax(0)
    new_3 = (largest_3 * 2.0**-margin / amax_3).clamp_(max=torch.finfo(torch.float32).max)
    keep_3 = ~(torch.isfinite(amax_3) & (amax_3 > 0))
    scale_3.copy_(torch.where(keep_3, scale_3, new_3))
    history_N3.copy_(history_N3.roll(-1, 0))
    history_N3[0] = 0


class Quantized(NamedTuple):
    """8-bit values [rows, columns] and what they are multiplied by: a scalar, or one a block."""

    values: torch.Tensor
    inverse: torch.Tensor
    block: tuple[int, int] | None = None

    def whole(self) -> torch.Tensor:
        """The values that the matrix product sees, fp32."""
        inverse = self.inverse
        if self.block is not None:
            rows, columns = self.values.shape
            inverse = inverse.repeat_interleave(self.block[0], 0)[:rows]
            inverse = inverse.repeat_interleave(self.block[1], 1)[:, :columns]
        return self.values.float() * inverse


def with_scale(values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> Quantized:
    """`values` under one given scale."""
    return Quantized(cast(values, scale, dtype), 1 / scale)


def by_tensor(values: torch.Tensor, dtype: torch.dtype) -> Quantized:
    """One scale from the tensor's own amax (recipe Float8CurrentScaling: no power of two)."""
    return with_scale(values, current_scale(largest_magnitude(values), dtype), dtype)


def by_block(values: torch.Tensor, dtype: torch.dtype, rows: int, columns: int) -> Quantized:
    """One power-of-two scale for each block of rows x columns (recipe Float8BlockScaling).

    Blocks at the edges are smaller.
    """
    height, width = values.shape
    padded = F.pad(values, (0, -width % columns, 0, -height % rows))
    blocks = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    largest = torch.finfo(values.dtype).max
    amax = blocks.abs().amax((1, 3)).float()
    scale = current_scale(amax, dtype, power_of_two=True, at_most=largest)
    spread = scale.repeat_interleave(rows, 0)[:height].repeat_interleave(columns, 1)[:, :width]
    return Quantized(cast(values, spread, dtype), 1 / scale, (rows, columns))


# --- Recipes: what each operand of the three products looks like --------------------------------


class Tensorwise:
    """Current scaling. What is split over sequence-parallel ranks arrives here whole, so its amax
    is that of all ranks; weights have one scale a rank (pytorch/module/linear.py)."""

    def input(self, input_TI: torch.Tensor) -> tuple[Quantized, Quantized]:
        """For the forward product and for the weight's gradient."""
        quantized = by_tensor(input_TI, E4M3)
        return quantized, quantized

    def weight(self, weight_OI: torch.Tensor) -> Quantized:
        return by_tensor(weight_OI, E4M3)

    def gradient(self, gradient_TO: torch.Tensor) -> tuple[Quantized, Quantized]:
        """For the input's gradient and for the weight's."""
        quantized = by_tensor(gradient_TO, E5M2)
        return quantized, quantized


class Blockwise:
    """Blocks lie along what a product sums over, so the two uses of a tensor are cast apart, both
    from the high-precision tensor; weights have square blocks, equal from both sides."""

    def input(self, input_TI: torch.Tensor) -> tuple[Quantized, Quantized]:
        return by_block(input_TI, E4M3, 1, BLOCK), by_block(input_TI, E4M3, BLOCK, 1)

    def weight(self, weight_OI: torch.Tensor) -> Quantized:
        return by_block(weight_OI, E4M3, BLOCK, BLOCK)

    def gradient(self, gradient_TO: torch.Tensor) -> tuple[Quantized, Quantized]:
        return by_block(gradient_TO, E4M3, 1, BLOCK), by_block(gradient_TO, E4M3, BLOCK, 1)


INPUT, WEIGHT, GRADIENT = range(3)


class Delayed:
    """Scales from the amax of earlier passes: the state of one layer.

    Updated once a forward (input, weight) and once a backward pass (gradient) of a micro-batch,
    with the amax of all ranks that compute this layer (pytorch/quantization.py,
    reduce_and_update_fp8_tensors; group: megatron-core's get_fp8_context). Weights are cast in the
    first micro-batch of a step and keep that scale through it, so they add nothing to the history
    in the others (is_first_microbatch; TE#1047 is what happens otherwise).
    """

    def __init__(self, margin: int, history_length: int) -> None:
        device = current_torch_device()
        self.margin = margin
        self.history_N3 = torch.zeros(history_length, 3, device=device)
        self.scale_3 = torch.ones(3, device=device)
        self.largest_3 = torch.tensor([LARGEST[t] for t in (E4M3, E4M3, E5M2)], device=device)
        self.step_weight_scale: torch.Tensor | None = None
        self.scale_now_3 = self.scale_3
        self.records_input = self.records_weight = False
        self.to_recompute: collections.deque[torch.Tensor] = collections.deque()

    def begin_step(self) -> None:
        """The weights have changed: the next micro-batch is the first with them."""
        self.step_weight_scale = None
        self.to_recompute.clear()

    def begin_forward(self, *, trains: bool) -> None:
        """Choose the scales of this pass and whether it goes into the history.

        What core computes again inside the backward pass, having done it without gradients before,
        uses the scales of the first time (copy_forward_fp8_meta_tensors_for_recompute).
        """
        self.records_input = self.records_weight = False
        if torch._C._current_graph_task_id() != -1:  # inside a backward pass
            self.scale_now_3 = self.to_recompute.popleft()
            return
        self.scale_now_3 = self.scale_3.clone()
        if not trains:
            return
        self.records_input, self.records_weight = True, self.step_weight_scale is None
        if self.step_weight_scale is None:
            self.step_weight_scale = self.scale_now_3[WEIGHT].clone()
        self.scale_now_3[WEIGHT] = self.step_weight_scale
        if not torch.is_grad_enabled():
            self.to_recompute.append(self.scale_now_3)

    def input(self, input_TI: torch.Tensor) -> tuple[Quantized, Quantized]:
        if self.records_input:
            self.history_N3[0, INPUT] = largest_magnitude(input_TI)
        quantized = with_scale(input_TI, self.scale_now_3[INPUT], E4M3)
        return quantized, quantized

    def weight(self, weight_OI: torch.Tensor) -> Quantized:
        if self.records_weight:
            self.history_N3[0, WEIGHT] = largest_magnitude(weight_OI)
        return with_scale(weight_OI, self.scale_now_3[WEIGHT], E4M3)

    def gradient(self, gradient_TO: torch.Tensor) -> tuple[Quantized, Quantized]:
        self.history_N3[0, GRADIENT] = largest_magnitude(gradient_TO)
        quantized = with_scale(gradient_TO, self.scale_3[GRADIENT], E5M2)
        self._update(slice(GRADIENT, None))
        return quantized, quantized

    def end_forward(self) -> None:
        if self.records_input:
            self._update(slice(0, GRADIENT))

    def _update(self, which: slice) -> None:
        group = get_amax_reduction_group(with_context_parallel=True)
        if group.size() > 1:
            amax = self.history_N3[0, which].clone()
            torch.distributed.all_reduce(amax, torch.distributed.ReduceOp.MAX, group=group)
            self.history_N3[0, which] = amax
        delayed_update(
            self.history_N3[:, which], self.scale_3[which], self.largest_3[which], self.margin
        )

    def state(self) -> torch.Tensor:
        """[1 + N, 3] on the host: scales, then history."""
        return torch.cat([self.scale_3[None], self.history_N3]).cpu()

    def load(self, state: torch.Tensor) -> None:
        """Take over `state`; of a longer or shorter history, the newest rows."""
        self.scale_3.copy_(state[0])
        self.history_N3.zero_()
        rows = min(len(state) - 1, len(self.history_N3)) - 1  # row 0 is the pass to come
        if rows:
            self.history_N3[-rows:] = state[-rows:].to(self.history_N3.device)


Recipe = Tensorwise | Blockwise | Delayed


def build_recipe(config: Fp8Config) -> Recipe:
    """The recipe of one layer."""
    if config.recipe == "delayed":
        return Delayed(config.margin or 0, config.history_length)
    return Tensorwise() if config.recipe == "tensorwise" else Blockwise()


# --- Layers -------------------------------------------------------------------------------------


class Fp8Product(torch.autograd.Function):
    """input_TI @ weight_OI.T and its two gradients, every operand as the recipe leaves it."""

    @staticmethod
    def forward(
        ctx: Any, input_TI: torch.Tensor, weight_OI: torch.Tensor, recipe: Recipe
    ) -> torch.Tensor:
        for_output, for_weight = recipe.input(input_TI)
        weight = recipe.weight(weight_OI)
        ctx.recipe, ctx.blocks = recipe, (for_weight.block, weight.block)
        ctx.save_for_backward(for_weight.values, for_weight.inverse, weight.values, weight.inverse)
        return (for_output.whole() @ weight.whole().T).to(input_TI.dtype)

    @staticmethod
    def backward(ctx: Any, gradient_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input_values, input_inverse, weight_values, weight_inverse = ctx.saved_tensors
        input_TI = Quantized(input_values, input_inverse, ctx.blocks[0])
        weight_OI = Quantized(weight_values, weight_inverse, ctx.blocks[1])
        for_input, for_weight = ctx.recipe.gradient(gradient_TO)
        dtype = gradient_TO.dtype
        input_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = (for_input.whole() @ weight_OI.whole()).to(dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = (for_weight.whole().T @ input_TI.whole()).to(dtype)
        return input_gradient, weight_gradient, None


class Fp8Linear(torch.nn.Module):
    """Mixed into core's parallel linear layers: their one matrix product, done in FP8."""

    fp8_recipe: Recipe
    fp8_is_on = True

    def _forward_impl(
        self,
        input: torch.Tensor,  # noqa: A002 - core's name
        weight: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        gradient_accumulation_fusion: bool = False,
        allreduce_dgrad: bool = False,
        sequence_parallel: bool = False,
        tp_group: Any = None,
        **others: Any,
    ) -> torch.Tensor:
        if not self.fp8_is_on:
            return super()._forward_impl(  # type: ignore[misc]
                input=input,
                weight=weight,
                bias=bias,
                gradient_accumulation_fusion=gradient_accumulation_fusion,
                allreduce_dgrad=allreduce_dgrad,
                sequence_parallel=sequence_parallel,
                tp_group=tp_group,
                **others,
            )
        assert not gradient_accumulation_fusion, "the emulation has no such kernel"
        if sequence_parallel:
            input = gather_from_sequence_parallel_region(input, group=tp_group)  # noqa: A001
        elif allreduce_dgrad:
            input = copy_to_tensor_model_parallel_region(input, group=tp_group)  # noqa: A001
        recipe = self.fp8_recipe
        delayed = recipe if isinstance(recipe, Delayed) else None
        if delayed is not None:
            delayed.begin_forward(trains=self.training)
        output_TO = Fp8Product.apply(input.flatten(0, -2), weight, recipe)
        if delayed is not None:
            delayed.end_forward()
        output = output_TO.unflatten(0, input.shape[:-1])
        return output if bias is None else output + bias

    def sharded_state_dict(self, prefix: str = "", *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Core's, and the state of delayed scaling, which all ranks of a layer have in common."""
        state = super().sharded_state_dict(prefix, *args, **kwargs)  # type: ignore[misc]
        if isinstance(self.fp8_recipe, Delayed):
            offsets = args[0] if args else kwargs.get("sharded_offsets", ())
            key = prefix + STATE_NAME
            state[key] = make_sharded_object_for_checkpoint(self.fp8_recipe.state(), key, offsets)
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state = state_dict.pop(prefix + STATE_NAME, None)
        if state is not None and isinstance(self.fp8_recipe, Delayed):
            self.fp8_recipe.load(state)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Fp8ColumnParallelLinear(Fp8Linear, ColumnParallelLinear):
    """Core's column-parallel layer in emulated FP8."""

    def __init__(self, *args: Any, fp8: Fp8Config, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp8_recipe = build_recipe(fp8)


class Fp8RowParallelLinear(Fp8Linear, RowParallelLinear):
    """Core's row-parallel layer in emulated FP8."""

    def __init__(self, *args: Any, fp8: Fp8Config, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp8_recipe = build_recipe(fp8)


EMULATED = {
    ColumnParallelLinear: Fp8ColumnParallelLinear,
    RowParallelLinear: Fp8RowParallelLinear,
}


def emulated_block_spec(
    block: TransformerBlockSubmodules, fp8: Fp8Config, *, first_layer: int, num_layers: int
) -> TransformerBlockSubmodules:
    """`block` with its linear layers in FP8 where `fp8` wants them.

    first_layer is the number, from 0, of the block's first layer in the model of `num_layers`.
    """
    layers = [
        _emulated(copy.deepcopy(spec), fp8) if fp8.is_fp8_layer(index, num_layers) else spec
        for index, spec in enumerate(block.layer_specs, first_layer)
    ]
    return dataclasses.replace(block, layer_specs=layers)


def _emulated(part: Any, fp8: Fp8Config) -> Any:
    if isinstance(part, type) and part in EMULATED:
        return ModuleSpec(module=EMULATED[part], params={"fp8": fp8})
    if isinstance(part, ModuleSpec) and part.submodules is not None:
        for field in dataclasses.fields(part.submodules):
            value = getattr(part.submodules, field.name)
            setattr(part.submodules, field.name, _emulated(value, fp8))
    return part


# --- What the trainer calls -----------------------------------------------------------------------


def fp8_linears(models: Sequence[Any]) -> Iterator[Fp8Linear]:
    """The emulated layers of this rank's model chunks."""
    for model in models:
        yield from (module for module in model.modules() if isinstance(module, Fp8Linear))


def begin_step(models: Sequence[Any]) -> None:
    """To be called before the first micro-batch of a step."""
    for linear in fp8_linears(models):
        if isinstance(linear.fp8_recipe, Delayed):
            linear.fp8_recipe.begin_step()


@contextlib.contextmanager
def without_fp8(models: Sequence[Any]) -> Iterator[None]:
    """Inside, forward passes are in the precision of the weights, under either backend.

    No scale and no history changes. FP8 weights (`parameters`) stay what they are.
    """
    linears = list(fp8_linears(models))
    configs = {id(model.config): model.config for model in models}.values()
    modes = [(config, config.fp8) for config in configs]
    try:
        for linear in linears:
            linear.fp8_is_on = False
        for config, _ in modes:
            config.fp8 = None
        yield
    finally:
        for linear in linears:
            linear.fp8_is_on = True
        for config, mode in modes:
            config.fp8 = mode


def te_fields(fp8: Fp8Config) -> dict[str, Any]:
    """Fields of core's TransformerConfig for the backend `te`.

    Raises UserError where there is no GPU, no Transformer Engine, or none that can do the recipe.
    """
    lacking = None
    if importlib.util.find_spec("transformer_engine") is None:
        lacking = "the package transformer-engine is not installed"
    elif device_kind() == "cpu":
        lacking = "no GPU was found"
    else:
        from transformer_engine import pytorch as te

        is_blockwise = fp8.recipe == "blockwise"
        check = te.is_fp8_block_scaling_available if is_blockwise else te.is_fp8_available
        is_there, reason = check(return_reason=True)
        lacking = None if is_there else reason
    if lacking is not None:
        raise UserError(
            f"precision.fp8 with backend te and recipe {fp8.recipe} was asked, and {lacking}; "
            "rehearse with backend: emulate, or remove precision.fp8"
        )
    fields: dict[str, Any] = {
        # As Transformer Engine's recipes have it: gradients in E5M2, but not in blocks.
        "fp8": "e4m3" if fp8.recipe == "blockwise" else "hybrid",
        "fp8_recipe": fp8.recipe,
        "fp8_param": fp8.parameters,
    }
    if fp8.recipe == "delayed":
        fields |= {
            "fp8_margin": fp8.margin or 0,
            "fp8_amax_history_len": fp8.history_length,
            "fp8_amax_compute_algo": "max",
        }
    if fp8.first_layers_bf16 or fp8.last_layers_bf16:
        fields |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": fp8.first_layers_bf16,
            "num_layers_at_end_in_bf16": fp8.last_layers_bf16,
        }
    return fields
