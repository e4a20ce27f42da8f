"""Low-rank adapters (Hu et al. 2021) on Megatron-Core's parallel linear maps.

`with_adapters` puts them into a layer spec, `start_adapters` freezes everything else and draws
them, `merge_adapters` adds them to the weights. A map keeps its own parameters under its own names
and gets two more, `lora_A` [r, inputs] and `lora_B` [outputs, r]: a checkpoint holds the base
model under the names that plain Megatron-Core reads.

Under tensor parallelism a column-parallel map has all of A and its rows of B, a row-parallel one
its columns of A and all of B. What crosses the ranks is r wide. With sequence parallelism a
replicated factor sees a part of the tokens, and core sums its gradient over the ranks.

Shapes: S sequence (of this rank, where it is cut), B micro-batch, I inputs, O outputs, r rank.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.utils import make_tp_sharded_tensor_for_checkpoint

from megatron_math.base.errors import UserError
from megatron_math.model.lora_config import LoraConfig, Target
from megatron_math.model.slots import submodules_of

PLACES: dict[Target, tuple[str, str]] = {
    "qkv": ("self_attention", "linear_qkv"),
    "proj": ("self_attention", "linear_proj"),
    "fc1": ("mlp", "linear_fc1"),
    "fc2": ("mlp", "linear_fc2"),
}
"""Module of a layer and its linear map, for every target."""


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name, in a model or in a checkpoint, belongs to an adapter."""
    return name.endswith((".lora_A", ".lora_B"))


class Adapted:
    """What both kinds of adapted map share; mixed in before core's own class."""

    cut: str
    """The factor that tensor parallelism cuts; the other one is replicated."""
    cut_dim: int
    lora: LoraConfig
    is_gated: bool

    config: Any
    tp_group: Any
    weight: torch.nn.Parameter
    lora_A: torch.nn.Parameter
    lora_B: torch.nn.Parameter

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        rank = self.lora.rank
        self.scale = self.lora.alpha / rank
        outputs, inputs = self.weight.shape
        for name, shape in ("lora_A", (rank, inputs)), ("lora_B", (outputs, rank)):
            values = torch.zeros(shape, dtype=self.config.params_dtype, device=self.weight.device)
            factor = torch.nn.Parameter(values)
            if name == self.cut:
                set_tensor_model_parallel_attributes(factor, True, self.cut_dim, 1)
            else:
                factor.sequence_parallel = self.config.sequence_parallel  # type: ignore[attr-defined]
            setattr(self, name, factor)

    @torch.no_grad()
    def draw(self, seed: str) -> None:
        """A of U(-1, 1) / sqrt(inputs), as PEFT and the authors' loralib have it, B of zeros.

        The whole A is drawn and then cut, so that every layout starts from the same one.
        """
        rank, inputs = self.lora_A.shape
        ways = self.tp_group.size() if self.cut == "lora_A" else 1
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(number)
        whole_rI = torch.empty(rank, inputs * ways).uniform_(-1, 1, generator=generator)
        mine_rI = whole_rI.chunk(ways, dim=1)[self.tp_group.rank() if ways > 1 else 0]
        self.lora_A.copy_(mine_rI / (inputs * ways) ** 0.5)
        self.lora_B.zero_()

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the weight, computed in fp32, and leave B zero."""
        update_OI = self.scale * (self.lora_B.float() @ self.lora_A.float())
        self.weight.copy_(self.weight.float() + update_OI)
        self.lora_B.zero_()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """Core's, with the cut factor as a cut tensor; the other one is a replicated one there."""
        state = super().sharded_state_dict(prefix, sharded_offsets, metadata)  # type: ignore[misc]
        key = prefix + self.cut
        state[key] = make_tp_sharded_tensor_for_checkpoint(
            getattr(self, self.cut),
            key,
            self.cut_dim,
            prepend_offsets=sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=(metadata or {})["dp_cp_group"],
        )
        if self.is_gated:  # each rank has rows of gate above rows of up, as in the weight
            state[key] = apply_swiglu_sharded_factory(state[key], sharded_offsets)
        return state


class AdaptedColumn(Adapted):
    """A column-parallel map: all of A, the rows of B that belong to this rank's outputs."""

    cut, cut_dim = "lora_B", 0

    def forward(self, hidden_SBI: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, Any]:
        """W x + (alpha / rank) B A x, and the bias that core adds later."""
        output_SBO, bias = super().forward(hidden_SBI, *rest)  # type: ignore[misc]
        low_SBr = F.linear(hidden_SBI, self.lora_A)
        if self.config.sequence_parallel:
            low_SBr = gather_from_sequence_parallel_region(low_SBr, group=self.tp_group)
        else:
            low_SBr = copy_to_tensor_model_parallel_region(low_SBr, group=self.tp_group)
        return torch.add(output_SBO, F.linear(low_SBr, self.lora_B), alpha=self.scale), bias


class AdaptedRow(Adapted):
    """A row-parallel map: the columns of A that belong to this rank's inputs, all of B."""

    cut, cut_dim = "lora_A", 1

    def forward(self, hidden_SBI: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """W x + (alpha / rank) B A x, and the bias that core adds later."""
        output_SBO, bias = super().forward(hidden_SBI)  # type: ignore[misc]
        low_SBr = F.linear(hidden_SBI, self.lora_A)
        if self.config.sequence_parallel:
            low_SBr = reduce_scatter_to_sequence_parallel_region(low_SBr, group=self.tp_group)
        else:
            low_SBr = reduce_from_tensor_model_parallel_region(low_SBr, group=self.tp_group)
        return torch.add(output_SBO, F.linear(low_SBr, self.lora_B), alpha=self.scale), bias


class AdaptedColumnParallelLinear(AdaptedColumn, ColumnParallelLinear):
    """Core's own, adapted."""


class AdaptedRowParallelLinear(AdaptedRow, RowParallelLinear):
    """Core's own, adapted."""


def with_adapters(
    block: TransformerBlockSubmodules, lora: LoraConfig
) -> TransformerBlockSubmodules:
    """The block with adapted maps in the place of the targets.

    UserError for a map of another kind than the `torch` spec has: Transformer Engine's fuse the
    norm into the map, and an adapter beside one could not be tried where this was written.
    """
    adapted = {
        ColumnParallelLinear: AdaptedColumnParallelLinear,
        RowParallelLinear: AdaptedRowParallelLinear,
    }
    layers: dict[int, ModuleSpec] = {}  # one spec may stand for many layers
    for spec in block.layer_specs:
        if id(spec) in layers:
            continue
        layers[id(spec)] = layer = copy.deepcopy(spec)
        for target in lora.targets:
            module, name = PLACES[target]
            submodules = submodules_of(getattr(layer.submodules, module))
            kind: Any = getattr(submodules, name, None)
            if kind not in adapted:
                raise UserError(
                    f"train.lora adapts {target}, and that is a "
                    f"{getattr(kind, '__name__', kind)} here; set precision.spec to torch"
                )
            # Core builds some maps from a spec and others by a call; a class goes both ways.
            settings = {"lora": lora, "is_gated": target == "fc1"}
            setattr(submodules, name, type(kind.__name__, (adapted[kind],), settings))
    layer_specs = [layers[id(spec)] for spec in block.layer_specs]
    return TransformerBlockSubmodules(layer_specs=layer_specs, layer_norm=block.layer_norm)


def adapted_maps(model: MegatronModule) -> Iterator[tuple[int, Target, Any]]:
    """(number of the layer in the whole model, from 1; target; map) of every adapted map here."""
    for layer in model.decoder.layers:
        for target, (module, name) in PLACES.items():
            found = getattr(getattr(layer, module), name, None)
            if isinstance(found, Adapted):
                yield layer.layer_number, target, found


def start_adapters(models: Sequence[Any], seed: int) -> None:
    """Freeze everything but the adapters, and draw these from the seed, equal in every layout."""
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_adapter(name))
        for number, target, adapted in adapted_maps(model):
            adapted.draw(f"lora {seed} layer {number} {target}")
        if model.pre_process and model.config.recompute_granularity == "full":
            # A layer that is computed again passes gradients on only where its input wants one,
            # and frozen embeddings do not.
            model.embedding.register_forward_hook(_wants_gradient)


def _wants_gradient(module: Any, arguments: Any, hidden_SBH: torch.Tensor) -> torch.Tensor:
    return hidden_SBH.requires_grad_() if torch.is_grad_enabled() else hidden_SBH


def merge_adapters(model: MegatronModule) -> None:
    """Add every adapter to the weight beside it; the adapters do nothing then."""
    for _, _, adapted in adapted_maps(model):
        adapted.merge()
