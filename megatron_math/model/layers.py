"""The `torch` layer spec: what Megatron-Core lacks without Transformer Engine, and the `te` spec.

Core's torch norm refuses sequence parallelism and its own attention is an unfused baddbmm, so both
are ours: an RMSNorm whose weight knows about sequence parallelism, and a core attention on
`scaled_dot_product_attention`. Everything else in the layer is core's. Reads and writes nothing.

Shapes: S sequence, P the part of it that this context rank holds (mostly all of it), L queries and
K keys of one call, B micro-batch, H hidden, N query heads and G key/value heads of this rank, D
head size, C = N*D.
"""

import functools
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.parallel_state import get_context_parallel_group
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
from megatron_math.model.context import own_chunks, whole_sequence
from megatron_math.model.experts import Balance, Router, torch_experts
from megatron_math.model.reading import KeyValues
from megatron_math.model.slots import submodules_of


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


# A document of its own costs a call of the kernel, forward and backward: about as long as this many
# multiplications under a mask take. On 1 and 2 CPU threads (S from 64 to 4,096) the mask wins below
# it, by up to 4, and the documents above it, by up to 20. The number for a GPU is an estimate.
MULTIPLICATIONS_A_CALL = {"cpu": 1 << 20, "gpu": 1 << 30}


class Documents:
    """The runs of equal ids in one micro-batch: `lengths`, row after row, and their mask.

    Found on the host, where the ids (int, [B, S]) live, so that nothing waits for a device.
    """

    def __init__(self, ids_BS: torch.Tensor) -> None:
        self.ids_BS = ids_BS.clone()  # NumPy may write the memory of the original
        batch, length = ids_BS.shape
        starts_BS = torch.ones_like(ids_BS, dtype=torch.bool)
        starts_BS[:, 1:] = ids_BS[:, 1:] != ids_BS[:, :-1]
        starts = starts_BS.flatten().nonzero().flatten()
        self.lengths: list[int] = starts.diff(append=starts.new_tensor([ids_BS.numel()])).tolist()
        bounds = [*starts.tolist(), ids_BS.numel()]
        self.bounds = [(a // length, a % length, a % length + b - a) for a, b in pairwise(bounds)]
        """(row, first position, position behind the last) of each document."""
        self.one_a_row = len(self.bounds) == batch
        self._mask: tuple[object, torch.Tensor] | None = None

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """`same_document_mask` on `device`, built once."""
        if self._mask is None or self._mask[0] != (window, device):
            mask = same_document_mask(self.ids_BS.to(device), window)
            self._mask = ((window, device), mask)
        return self._mask[1]


_last_documents: Documents | None = None


def documents_of(ids_BS: torch.Tensor) -> Documents:
    """The documents of a micro-batch; found once for all its layers and their recomputation.

    Ids are recognised by content: recomputation hands over a detached twin.
    """
    global _last_documents
    assert ids_BS.device.type == "cpu", "document ids stay on the host: to read them is to wait"
    known = _last_documents
    if known is None or known.ids_BS.dtype != ids_BS.dtype or not known.ids_BS.equal(ids_BS):
        known = _last_documents = Documents(ids_BS)
    return known


def same_document_mask(document_ids_BS: torch.Tensor, window: int | None) -> torch.Tensor:
    """Boolean [B, 1, S, S], true where a query may look: causal, same document, in the window."""
    same_BSS = document_ids_BS[:, :, None] == document_ids_BS[:, None, :]
    length, device = document_ids_BS.shape[1], document_ids_BS.device
    return (same_BSS & causal_mask(length, window, device))[:, None]


@functools.lru_cache(maxsize=1)
def causal_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Boolean [S, S]: a query sees itself and the window - 1 tokens before it, or all before."""
    position_S = torch.arange(length, device=device)
    distance_SS = position_S[:, None] - position_S[None, :]
    return (distance_SS >= 0) & (distance_SS < (length if window is None else window))


class DocumentAttention(MegatronModule):
    """Causal attention inside documents, on torch's fused kernels; core's core_attention slot.

    The document ids (int [B, S] on the host, equal inside a document) come where core hands over
    its attention mask; None means one document a row. Each document is a call of its own, without
    a mask; where they are too short for that, one call takes them all under a mask. Fewer
    key/value heads than query heads are not repeated in memory. With context parallelism a rank
    has some queries only and fetches all keys and values: what it does not need of them, it does
    not look at, and groups of few heads make them small.
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
        self.context_group = get_context_parallel_group(check_initialized=False)
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout
        # Core counts the tokens to the left, a window counts the query itself, too.
        self.window = config.window_size[0] + 1 if config.window_size else None

    def forward(
        self,
        query_PBND: torch.Tensor,
        key_PBGD: torch.Tensor,
        value_PBGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attend; `attention_mask` holds document ids [B, S]. Query, key and value are of this
        rank's tokens, [P, B, ...]; returns [P, B, N*D].
        """
        assert attention_bias is None
        if isinstance(attention_mask, KeyValues):
            return attention_mask.attend(
                self, (query_PBND, key_PBGD, value_PBGD), self.window, self.softmax_scale
            )
        assert packed_seq_params is None, "this spec takes document ids, not packed sequences"
        group = self.context_group
        rank, size = (group.rank(), group.size()) if group is not None else (0, 1)
        batch, length = query_PBND.shape[1], query_PBND.shape[0] * size
        assert attention_mask is None or attention_mask.shape == (batch, length), (
            f"document ids {tuple(attention_mask.shape)} for micro-batch {batch} x {length}"
        )
        documents = None if attention_mask is None else documents_of(attention_mask)
        if size > 1:
            key_PBGD, value_PBGD = (whole_sequence(part, group) for part in (key_PBGD, value_PBGD))
        query, key, value = (part.transpose(0, 1) for part in (query_PBND, key_PBGD, value_PBGD))
        contexts, done = [], 0
        for chunk in own_chunks(length, rank, size):
            here = slice(done, done := done + chunk.stop - chunk.start)
            seen = slice(0, chunk.stop)
            parts = query[:, here], key[:, seen], value[:, seen]
            contexts.append(self._attend_chunk(*parts, documents, chunk, length))
        context_BPC = contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=1)
        return context_BPC.transpose(0, 1).contiguous()

    def _attend_chunk(
        self,
        query_BLND: torch.Tensor,
        key_BKGD: torch.Tensor,
        value_BKGD: torch.Tensor,
        documents: Documents | None,
        chunk: slice,
        row_length: int,
    ) -> torch.Tensor:
        """Queries of the positions in `chunk`, keys of all positions before its end. [B, L, C]."""
        whole = query_BLND, key_BKGD, value_BKGD
        if documents is None or documents.one_a_row:
            return self._attend(*whole, row_length=row_length)
        bounds = [
            (row, max(begin, chunk.start), begin, min(end, chunk.stop))
            for row, begin, end in documents.bounds
            if begin < chunk.stop and end > chunk.start
        ]
        if not _pays_by_document(query_BLND, key_BKGD, len(bounds)):
            mask = documents.mask(self.window, query_BLND.device)
            return self._attend(*whole, row_length=row_length, mask=mask[..., chunk, : chunk.stop])
        each = [
            self._attend(
                query_BLND[row : row + 1, first - chunk.start : end - chunk.start],
                key_BKGD[row : row + 1, begin:end],
                value_BKGD[row : row + 1, begin:end],
                row_length=row_length,
            )
            for row, first, begin, end in bounds
        ]
        return torch.cat(each, dim=1).view(*query_BLND.shape[:2], -1)

    def _attend(
        self,
        query_BLND: torch.Tensor,
        key_BKGD: torch.Tensor,
        value_BKGD: torch.Tensor,
        *,
        row_length: int,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One call of the kernel. [B, L, C].

        Without a mask the K keys of a row are of one document, and the queries are its last L.
        """
        length, num_keys = query_BLND.shape[1], key_BKGD.shape[1]
        is_cut = self.window is not None and self.window < num_keys
        if mask is None and (is_cut or length < num_keys):
            mask = causal_mask(row_length, self.window, query_BLND.device)
            mask = mask[num_keys - length : num_keys, :num_keys]
        context_BNLD = F.scaled_dot_product_attention(
            query_BLND.transpose(1, 2),
            key_BKGD.transpose(1, 2),
            value_BKGD.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=query_BLND.shape[2] != key_BKGD.shape[2],
        )
        return context_BNLD.transpose(1, 2).flatten(2)


def _pays_by_document(query_BLND: torch.Tensor, key_BKGD: torch.Tensor, num_documents: int) -> bool:
    """Whether a kernel call for each document is faster than one call under a mask."""
    kind = "cpu" if query_BLND.device.type == "cpu" else "gpu"
    multiplications = query_BLND.numel() * key_BKGD.shape[1]
    return multiplications >= MULTIPLICATIONS_A_CALL[kind] * num_documents


def torch_block_spec(num_layers: int, balance: Balance | None) -> TransformerBlockSubmodules:
    """`num_layers` layers and the final norm of the `torch` spec (CPU, and a GPU without TE).

    With `balance` the layers have experts. Sharded checkpoints carry Transformer Engine's names for
    the two norms of a layer, so that either spec reads the other's.
    """
    names = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    if balance is None:  # a norm before a router is fused with nothing
        names["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
    one_mlp = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
    )
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
            mlp=one_mlp if balance is None else torch_experts(balance),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=names,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=RMSNorm)


def te_block_spec(num_layers: int, balance: Balance | None) -> TransformerBlockSubmodules:
    """`num_layers` layers and the final norm of core's own Transformer Engine spec.

    For GPUs; with `balance` the layers have experts, multiplied together (grouped). It has not yet
    run on one in this project: only its construction from core's public functions is written down
    here, and `model.gpt` turns document ids into packed sequences.
    """
    from megatron.core.extensions.transformer_engine import TENorm
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_with_transformer_engine_spec,
    )

    if balance is None:
        layer = get_gpt_layer_with_transformer_engine_spec()
    else:
        layer = get_gpt_layer_with_transformer_engine_spec(num_experts=2, moe_grouped_gemm=True)
        submodules_of(layer.submodules.mlp).router = partial(Router, balance=balance)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=TENorm)
