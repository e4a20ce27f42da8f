"""Megatron-Core's GPTModel with the three things it lacks for this project.

Padding rows of the vocabulary take no part in the loss; rotary frequencies may carry all of
Llama-3's scaling; and under the `te` spec document ids become packed sequences. Everything is
handed to core through its own arguments, attributes and methods.

Shapes: B micro-batch, S sequence, T = B*S tokens, H hidden, V padded vocabulary of this rank.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.parallel_state import (
    get_tensor_model_parallel_group,
    get_tensor_model_parallel_rank,
)
from megatron.core.tensor_parallel.mappings import scatter_to_sequence_parallel_region
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_math.base.errors import UserError
from megatron_math.device.open import current_torch_device
from megatron_math.model.config import ModelConfig
from megatron_math.model.experts import Balance
from megatron_math.model.head import linear_cross_entropy
from megatron_math.model.layers import documents_of
from megatron_math.model.rope import rotary_frequencies


class GPT(GPTModel):
    """One (virtual) pipeline stage.

    `forward(tokens_BS, position_ids_BS, document_ids_BS, labels=labels_BS, loss_mask=mask_BS)`: the
    document ids go where core has its attention mask, and stay on the host. Returns the loss of
    each token, fp32 [B, S]: core's, or with a loss mask 0 outside it and to be minimised in sum
    (`model/head.py`; not under the `te` spec); without labels the logits [B, S, V]; on other
    stages than the last, the hidden state
    [S, B, H].
    """

    def __init__(
        self,
        config: TransformerConfig,
        block: TransformerBlockSubmodules,
        model_config: ModelConfig,
        *,
        sequence_length: int,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
        packs_documents: bool,
        balance: Balance | None = None,
    ) -> None:
        super().__init__(
            config=config,
            transformer_layer_spec=block,
            vocab_size=model_config.padded_vocab_size,
            max_sequence_length=sequence_length,
            pre_process=pre_process,
            post_process=post_process,
            share_embeddings_and_output_weights=model_config.tied_embeddings,
            position_embedding_type="rope",
            rotary_base=model_config.rope_base,
            vp_stage=vp_stage,
        )
        self.model_config = model_config
        self.packs_documents = packs_documents
        self.balance = balance
        if model_config.rope_scaling is not None:
            frequencies = rotary_frequencies(model_config)
            self.rotary_pos_emb.inv_freq = frequencies.to(current_torch_device())

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        labels: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """See the class; padding_mask [B, S] is true where a token is padding, and experts do not
        balance it; further arguments are core's."""
        if padding_mask is not None:
            if self.config.sequence_parallel and not self.pre_process:
                # Core cuts the mask like the tokens, on the first stage and nowhere else.
                own_BP = scatter_to_sequence_parallel_region(padding_mask.T.contiguous())
                padding_mask = own_BP.T.contiguous()
            kwargs["padding_mask"] = padding_mask
        if not self.packs_documents or attention_mask is None:
            if loss_mask is not None:
                kwargs["loss_mask"] = loss_mask
            return super().forward(
                input_ids, position_ids, attention_mask, *args, labels=labels, **kwargs
            )
        batch, length = attention_mask.shape
        if self.balance is not None and batch > 1:
            raise UserError(
                f"a micro-batch of {batch} rows was asked of a model with experts, which balances "
                "row by row, under the layer spec te, which makes one row of them; set "
                "train.micro_batch_size to 1"
            )
        assert batch == 1 or self.config.pipeline_model_parallel_size == 1, (
            "packed sequences pass between pipeline stages with a micro-batch of 1 only"
        )
        result = super().forward(
            input_ids.view(1, -1),
            position_ids.view(1, -1),
            None,
            *args,
            labels=None if labels is None else labels.view(1, -1),
            packed_seq_params=packed_sequences(attention_mask, input_ids.device),
            **kwargs,
        )
        if not self.post_process:
            return result
        return result.view(batch, length, *result.shape[2:])

    def _postprocess(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        labels: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Core's last steps; with labels and the mask, output layer and loss in one."""
        fused = labels is not None and loss_mask is not None and not self.packs_documents
        if not fused or not self.post_process:
            return super()._postprocess(
                hidden_states, *args, labels=labels, loss_mask=loss_mask, **kwargs
            )
        weight_VH = self.output_layer.weight
        if self.share_embeddings_and_output_weights:
            weight_VH = self.shared_embedding_or_output_weight()
        assert labels is not None
        assert loss_mask is not None
        rows = weight_VH.shape[0]
        first_row = get_tensor_model_parallel_rank() * rows
        loss_SB = linear_cross_entropy(
            hidden_states,
            weight_VH,
            labels.t(),
            loss_mask.t(),
            num_rows=min(rows, self.model_config.vocab_size - first_row),
            first_row=first_row,
            group=get_tensor_model_parallel_group(),
            sequence_parallel=self.config.sequence_parallel,
        )
        return loss_SB.t()

    def compute_language_model_loss(
        self, labels: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Core's cross entropy per token [B, S], with padding rows out of the softmax."""
        rows = logits.shape[-1]
        real = self.model_config.vocab_size - get_tensor_model_parallel_rank() * rows
        if real < rows:
            logits[..., max(real, 0) :] = float("-inf")
        return super().compute_language_model_loss(labels, logits)


def packed_sequences(document_ids_BS: torch.Tensor, device: torch.device) -> PackedSeqParams:
    """Transformer Engine's `thd` description of a micro-batch: one sequence a document.

    Documents never span two rows. The ids are read on the host; the bounds go to `device`.
    """
    lengths = torch.tensor(documents_of(document_ids_BS).lengths)
    bounds = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32).to(device, non_blocking=True)
    longest = int(lengths.max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def gather_logits(logits_BSV: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Logits over the published vocabulary on every tensor rank: [B, S, vocab_size].

    For models and batches whose whole logits fit in memory (receipts, tests).
    """
    full = tensor_parallel.gather_from_tensor_model_parallel_region(logits_BSV)
    return full[..., : config.vocab_size]
