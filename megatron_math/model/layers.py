"""The `torch` layer spec: what Megatron-Core lacks without Transformer Engine, and the `te` spec.

Core's torch norm refuses sequence parallelism and its own attention is an unfused baddbmm, so both
are ours: an RMSNorm whose weight knows about sequence parallelism, and a core attention on
`scaled_dot_product_attention`. Everything else in the layer is core's. Reads and writes nothing.

Shapes: S sequence, B micro-batch, H hidden, N query heads and G key/value heads of this rank,
D head size.
"""

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
)

from megatron_math.device.open import current_torch_device


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, eq. 4) over the last dimension.

    Computed in fp32 and returned in the input's dtype, as the published models do it.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        super().__init__()
        assert config.normalization == "RMSNorm", config.normalization
        self.eps = eps
        self.weight = torch.nn.Parameter(
            torch.ones(hidden_size, dtype=config.params_dtype, device=current_torch_device())
        )
        # Each tensor rank sees a part of the tokens, so core must sum this gradient over them.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden_SBH: torch.Tensor) -> torch.Tensor:
        """Normalise [..., H]."""
        normed_SBH = F.rms_norm(hidden_SBH.float(), hidden_SBH.shape[-1:], eps=self.eps)
        return self.weight * normed_SBH.to(hidden_SBH.dtype)


def same_document_mask(document_ids_BS: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Boolean [B, 1, S, S], true where a query may look: causal, same document, in the window.

    None when plain causal attention is the same thing (one document a row, no window at work).
    """
    length = document_ids_BS.shape[1]
    single = bool((document_ids_BS == document_ids_BS[:, :1]).all())
    if window is not None and window >= length:
        window = None
    if single and window is None:
        return None
    position_S = torch.arange(length, device=document_ids_BS.device)
    distance_SS = position_S[:, None] - position_S[None, :]
    allowed_SS = distance_SS >= 0
    if window is not None:
        allowed_SS &= distance_SS < window
    same_BSS = document_ids_BS[:, :, None] == document_ids_BS[:, None, :]
    return (same_BSS & allowed_SS)[:, None]


class _MaskOfMicroBatch:
    """Remembers the mask of the document ids seen last: one build a micro-batch, not a layer.

    Ids are recognised by memory, not by object: recomputation hands over a detached twin. The
    tensor is held, so its memory cannot become another tensor's, and torch's version counter
    shows writes. On a CPU the memory may belong to NumPy, which no counter sees, so there the
    content is compared as well.
    """

    def __init__(self) -> None:
        self._ids: torch.Tensor | None = None
        self._copy: torch.Tensor | None = None
        self._key: tuple[object, ...] = ()
        self._mask: torch.Tensor | None = None

    def __call__(self, document_ids_BS: torch.Tensor, window: int | None) -> torch.Tensor | None:
        ids = document_ids_BS
        key = (ids.data_ptr(), ids.shape, ids.stride(), ids.dtype, ids._version, ids.device, window)
        on_cpu = ids.device.type == "cpu"
        if key != self._key or (on_cpu and not torch.equal(ids, self._copy)):  # type: ignore[arg-type]
            self._mask = same_document_mask(ids, window)
            self._ids, self._key = ids, key
            self._copy = ids.clone() if on_cpu else None
        return self._mask


_mask_of = _MaskOfMicroBatch()


class DocumentAttention(MegatronModule):
    """Causal attention inside documents, on torch's fused kernels; core's core_attention slot.

    The document ids (int, [B, S], equal inside a document) come where core hands over its
    attention mask; None means one document a row. Fewer key/value heads than query heads are not
    repeated in memory.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: object = None,
        **_: object,
    ) -> None:
        super().__init__(config=config)
        assert attn_mask_type == AttnMaskType.causal, attn_mask_type
        assert attention_type == "self", attention_type
        assert config.context_parallel_size == 1, "build_model refuses context parallelism"
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout
        # Core counts the tokens to the left, a window counts the query itself, too.
        self.window = config.window_size[0] + 1 if config.window_size else None

    def forward(
        self,
        query_SBND: torch.Tensor,
        key_SBGD: torch.Tensor,
        value_SBGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attend; `attention_mask` holds document ids [B, S]. Returns [S, B, N*D]."""
        assert attention_bias is None
        assert packed_seq_params is None, "this spec takes document ids, not packed sequences"
        query_BNSD = query_SBND.permute(1, 2, 0, 3)
        key_BGSD = key_SBGD.permute(1, 2, 0, 3)
        value_BGSD = value_SBGD.permute(1, 2, 0, 3)
        mask = self._mask(attention_mask, query_SBND)
        context_BNSD = F.scaled_dot_product_attention(
            query_BNSD,
            key_BGSD,
            value_BGSD,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=query_BNSD.shape[1] != key_BGSD.shape[1],
        )
        return context_BNSD.permute(2, 0, 1, 3).flatten(2)

    def _mask(
        self, document_ids_BS: torch.Tensor | None, query_SBND: torch.Tensor
    ) -> torch.Tensor | None:
        length, batch = query_SBND.shape[:2]
        if document_ids_BS is None:
            if self.window is None or self.window >= length:
                return None
            document_ids_BS = torch.zeros(1, length, dtype=torch.int32, device=query_SBND.device)
            return same_document_mask(document_ids_BS, self.window)
        assert document_ids_BS.shape == (batch, length), (
            f"document ids {tuple(document_ids_BS.shape)} for micro-batch {batch} x {length}"
        )
        return _mask_of(document_ids_BS, self.window)


def torch_block_spec(num_layers: int) -> TransformerBlockSubmodules:
    """`num_layers` layers and the final norm of the `torch` spec (CPU, and a GPU without TE).

    Sharded checkpoints carry Transformer Engine's names for the two norms of a layer, so that
    either spec reads the other's.
    """
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=DocumentAttention,
                    linear_proj=RowParallelLinear,
                    q_layernorm=IdentityOp,
                    k_layernorm=IdentityOp,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear
                ),
            ),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
            },
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)


def te_block_spec(num_layers: int) -> TransformerBlockSubmodules:
    """`num_layers` layers and the final norm of core's own Transformer Engine spec.

    For GPUs. It has not yet run on one in this project: only its construction from core's public
    functions is written down here, and `model.gpt` turns document ids into packed sequences.
    """
    from megatron.core.extensions.transformer_engine import TENorm
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_with_transformer_engine_spec,
    )

    layer = get_gpt_layer_with_transformer_engine_spec()
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=TENorm)
