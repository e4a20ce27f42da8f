"""Next-token loss: a sum over unmasked tokens and their count, never a mean of means.

Shapes: B micro-batch, S sequence (this rank's part of it), V vocabulary (this rank's part of it),
K sources. The step divides the global sum by the global count, so that every layout, micro-batch
size and number of replicas gives the same loss and gradient.
"""

import torch
from megatron.core import parallel_state, tensor_parallel

PADDING_LOGIT = -1.0e4  # exp() of it is 0 in fp32 and bf16 alike, and bf16 holds it


def next_token_loss(
    logits_BSV: torch.Tensor,
    labels_BS: torch.Tensor,
    loss_mask_BS: torch.Tensor,
    source_B: torch.Tensor,
    *,
    vocab_size: int,
    num_sources: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, token count, report_2K): the three values core's schedules divide correctly.

    logits are split over the tensor group along V; columns from `vocab_size` on are padding and
    get no probability. report_2K holds each source's loss sum, then each source's token count.
    """
    columns = logits_BSV.size(-1)
    first_column = parallel_state.get_tensor_model_parallel_rank() * columns
    padding_from = max(0, vocab_size - first_column)
    if padding_from < columns:
        logits_BSV[..., padding_from:] = PADDING_LOGIT
    loss_BS = tensor_parallel.vocab_parallel_cross_entropy(logits_BSV.float(), labels_BS)
    loss_BS = loss_BS * loss_mask_BS
    loss_sum = loss_BS.sum()
    num_tokens = loss_mask_BS.sum()

    report_2K = torch.zeros(2 * num_sources, dtype=torch.float64, device=loss_BS.device)
    with torch.no_grad():
        report_2K.index_add_(0, source_B, loss_BS.sum(1).double())
        report_2K.index_add_(0, source_B + num_sources, loss_mask_BS.sum(1).double())
    return loss_sum, num_tokens.to(torch.int), report_2K
