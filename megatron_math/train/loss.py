"""Next-token loss: a sum over unmasked tokens and their count, never a mean of means.

Shapes: B micro-batch, P tokens of a row that this rank holds, K sources. The step divides the
global sum by the global count, so that every layout, micro-batch size and number of replicas gives
the same loss and gradient.
"""

import torch


def next_token_loss(
    loss_BP: torch.Tensor,
    loss_mask_BP: torch.Tensor,
    source_B: torch.Tensor,
    *,
    num_sources: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, token count, report_2K): the three values core's schedules divide correctly.

    loss_BP is the cross entropy of every token, fp32; source_B the source of every row (int64).
    report_2K (fp64) holds each source's loss sum, then each source's token count.
    """
    loss_BP = loss_BP * loss_mask_BP
    report_2K = torch.zeros(2 * num_sources, dtype=torch.float64, device=loss_BP.device)
    with torch.no_grad():
        report_2K.index_add_(0, source_B, loss_BP.sum(1).double())
        report_2K.index_add_(0, source_B + num_sources, loss_mask_BP.sum(1).double())
    return loss_BP.sum(), loss_mask_BP.sum().to(torch.int), report_2K
