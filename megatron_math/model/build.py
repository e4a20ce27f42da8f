"""ModelConfig -> Megatron-Core's TransformerConfig -> the GPT stages of this rank.

Needs an open device (`device.open_device`); reads and writes no files.
"""

import importlib.util
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.device.grid import Grid
from megatron_math.device.open import device_kind
from megatron_math.model.config import ModelConfig
from megatron_math.model.experts import Balance, expert_fields
from megatron_math.model.fp8 import emulated_block_spec, te_fields
from megatron_math.model.fp8_config import Fp8Config
from megatron_math.model.gpt import GPT
from megatron_math.model.layers import te_block_spec, torch_block_spec
from megatron_math.model.lora import start_adapters, with_adapters
from megatron_math.model.lora_config import LoraConfig

Spec = Literal["auto", "torch", "te"]
Recompute = Literal["none", "selective", "full"]

RECOMPUTE_FIELDS: dict[Recompute, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}
"""Core's names for what is computed again in the backward pass (Korthikanti et al. 2022)."""


def build_model(
    config: ModelConfig,
    *,
    grid: Grid,
    dtype: torch.dtype,
    spec: Spec = "auto",
    sequence_length: int,
    stage_layers: tuple[int | None, int | None] = (None, None),
    recompute: Recompute = "none",
    balance_coefficient: float = 0.0,
    lora: LoraConfig | None = None,
    seed: int = 0,
    fp8: Fp8Config | None = None,
    **transformer_overrides: Any,
) -> list[GPT]:
    """The stages that this rank holds, one per virtual stage, fresh weights, on the device.

    `dtype` is that of the weights; `sequence_length` is in tokens; `stage_layers` are those of the
    first and of the last pipeline stage, None for an even share; `balance_coefficient` is that of
    the experts' balance loss; `lora` adds adapters, drawn from `seed`, and freezes everything else;
    `transformer_overrides` are fields of core's TransformerConfig. The models are not wrapped in
    DistributedDataParallel or Float16Module. Raises `UserError` for a grid that does not fit the
    model, a sequence longer than the model's, or a spec that cannot run here.
    """
    check_grid(config, grid, sequence_length, stage_layers)
    transformer_overrides = {
        "num_layers_in_first_pipeline_stage": stage_layers[0],
        "num_layers_in_last_pipeline_stage": stage_layers[1],
        **RECOMPUTE_FIELDS[recompute],
        **(te_fields(fp8) if fp8 is not None and fp8.backend == "te" else {}),
        **transformer_overrides,
    }
    if fp8 is not None:
        spec = "te" if fp8.backend == "te" else "torch"
    chosen = choose_spec(spec)
    check_context(chosen, grid)
    transformer = transformer_config(config, grid=grid, dtype=dtype, **transformer_overrides)
    block_spec = te_block_spec if chosen == "te" else torch_block_spec
    balance = None if config.num_experts is None else Balance(balance_coefficient)
    models = []
    for virtual_stage in range(grid.virtual):
        vp_stage = virtual_stage if grid.virtual > 1 else None
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
        block = block_spec(get_num_layers_to_build(transformer, vp_stage=vp_stage), balance)
        if fp8 is not None and fp8.backend == "emulate":
            offset = get_transformer_layer_offset(transformer, vp_stage=vp_stage)
            block = emulated_block_spec(
                block, fp8, first_layer=offset, num_layers=config.num_layers
            )
        models.append(
            GPT(
                transformer,
                block if lora is None else with_adapters(block, lora),
                config,
                sequence_length=sequence_length,
                pre_process=first,
                post_process=last,
                vp_stage=vp_stage,
                packs_documents=chosen == "te",
                balance=balance,
            )
        )
    if lora is not None:
        start_adapters(models, seed)
    return models


def check_context(spec: Spec, grid: Grid) -> None:
    """Raise `UserError` where the layer spec cannot cut sequences as `grid` asks."""
    if spec == "te" and grid.context > 1:
        raise UserError(
            f"parallel.context {grid.context} was asked under the layer spec te, which needs "
            "documents of whole multiples of tokens there; set precision.spec to torch"
        )


def choose_spec(spec: Spec) -> Literal["torch", "te"]:
    """The layer spec that will run, and a line in the log saying why."""
    on_gpu = device_kind() != "cpu"
    has_te = importlib.util.find_spec("transformer_engine") is not None
    if spec == "te" and not (on_gpu and has_te):
        lacking = "a GPU" if has_te else "the package transformer-engine"
        raise UserError(
            f"layer spec te was asked, and {lacking} was not found; "
            "take spec torch or auto, or install megatron_math[gpu] on a machine with a GPU"
        )
    if spec != "auto":
        log.info("layer spec: %s, as asked", spec)
        return spec
    if on_gpu and has_te:
        log.info("layer spec: te (a GPU and transformer-engine are there)")
        return "te"
    log.info("layer spec: torch (%s)", "no transformer-engine" if on_gpu else "no GPU")
    return "torch"


def check_grid(
    config: ModelConfig,
    grid: Grid,
    sequence_length: int,
    stage_layers: tuple[int | None, int | None] = (None, None),
) -> None:
    """Raise `UserError` where `grid` cannot cut `config`, naming both numbers."""
    given = [layers for layers in stage_layers if layers is not None]
    stages = grid.pipeline * grid.virtual - len(given)
    stages_text = f"parallel.pipeline {grid.pipeline} x virtual {grid.virtual}"
    if given:
        stages_text += f" less {len(given)} with layers of their own"
    tensor_text = f"parallel.tensor {grid.tensor}"
    layers_left = config.num_layers - sum(given)
    if given and (layers_left < stages or (stages == 0 and layers_left)):
        raise UserError(
            f"first_stage_layers and last_stage_layers take {sum(given)} of {config.num_layers} "
            f"layers and leave {layers_left} for {stages} stages"
        )
    for what, size, ways, axis in (
        ("num_layers", layers_left, max(1, stages), stages_text),
        ("num_attention_heads", config.num_attention_heads, grid.tensor, tensor_text),
        ("ffn_hidden_size", config.ffn_hidden_size, grid.tensor, tensor_text),
        ("padded vocabulary", config.padded_vocab_size, grid.tensor, tensor_text),
    ):
        if size % ways:
            raise UserError(
                f"{axis} = {ways} does not divide {what} {size}; choose a divisor of {size}"
            )
    groups = config.num_query_groups
    if groups % grid.tensor and grid.tensor % groups:
        raise UserError(
            f"{tensor_text} and num_query_groups {groups}: one must be a multiple of the other"
        )
    context_ways = 2 * grid.context if grid.context > 1 else 1  # each rank has two chunks
    sequence_ways = grid.tensor if grid.sequence else 1
    if sequence_length % (context_ways * sequence_ways):
        axes = [f"parallel.context {grid.context}"] * (grid.context > 1)
        axes += [f"parallel.sequence with tensor {grid.tensor}"] * grid.sequence
        raise UserError(
            f"{' and '.join(axes)} cut {sequence_length} tokens {context_ways * sequence_ways} "
            f"ways; choose a sequence length that is a multiple of {context_ways * sequence_ways}"
        )
    _check_experts(config, grid)
    if sequence_length > config.max_sequence_length:
        raise UserError(
            f"sequence length {sequence_length} is more than the model's max_sequence_length "
            f"{config.max_sequence_length}; shorten it, or set model.max_sequence_length to extend"
        )


def _check_experts(config: ModelConfig, grid: Grid) -> None:
    if config.num_experts is None:
        if grid.expert > 1:
            raise UserError(
                f"parallel.expert {grid.expert} was asked, and the model has no experts"
            )
        return
    if config.num_experts % grid.expert:
        raise UserError(
            f"parallel.expert {grid.expert} does not divide num_experts {config.num_experts}; "
            f"choose a divisor of {config.num_experts}"
        )
    if grid.tensor > 1 and not (grid.sequence and grid.expert > 1):
        raise UserError(
            f"parallel.tensor {grid.tensor} was asked of a model with experts, which are cut by "
            "parallel.expert only and take tokens that are cut: set parallel.sequence to true and "
            "parallel.expert to 2 or more"
        )


def transformer_config(
    config: ModelConfig, *, grid: Grid, dtype: torch.dtype, **overrides: Any
) -> TransformerConfig:
    """Core's configuration; `overrides` win over everything that is set here."""
    fields: dict[str, Any] = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.ffn_hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_query_groups": config.num_query_groups,
        "kv_channels": config.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": config.norm_eps,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "add_qkv_bias": config.qkv_bias,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_method_std": config.init_std,
        # Core wants the tokens to the left of the query, and the one itself is not to the left.
        "window_size": (config.sliding_window - 1, 0) if config.sliding_window else None,
        "params_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu_initialization": device_kind() == "cpu",
        "perform_initialization": True,
        # The sum over tokens and their count travel apart; the trainer divides once a step.
        "calculate_per_token_loss": True,
        "gradient_accumulation_fusion": False,  # wants Apex's kernel
        "tensor_model_parallel_size": grid.tensor,
        "sequence_parallel": grid.sequence,
        "pipeline_model_parallel_size": grid.pipeline,
        "context_parallel_size": grid.context,
        "pipeline_dtype": dtype,
        # On gloo a send in flight reads the very memory that this would free: with virtual stages,
        # where core does not wait for it, losses change from run to run (4.616, 4.618; 2026-11-21).
        "deallocate_pipeline_outputs": grid.virtual == 1 or device_kind() != "cpu",
    }
    if config.num_experts is not None:
        fields |= expert_fields(config, grid.expert)
    if grid.virtual > 1:
        fields |= {
            "virtual_pipeline_model_parallel_size": grid.virtual,
            # With batched p2p two sends and two receives between the same two ranks cross on
            # gloo, and gradients are silently wrong (norm 12.7 for 3.10, 2026-11).
            "overlap_p2p_comm": True,
            "batch_p2p_comm": False,
        }
    return TransformerConfig(**(fields | overrides))
