"""Output layer and cross entropy in one, a few rows at a time: whole logits never exist.

The gradients of a chunk are made with its logits, in the forward pass, and scaled in the backward
pass (the idea of Hsu et al. 2024, arXiv 2410.10989, section 3.2). Tokens that carry no loss cost
nothing on a CPU.

Shapes: S sequence, B micro-batch, T = S*B tokens (of all tensor ranks), K tokens of them with loss,
H hidden, V rows of the output weight on this rank.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)

CHUNK_BYTES = {"cpu": 1 << 26, "gpu": 1 << 28}
"""Of a chunk's fp32 logits."""

LEAST_ROWS = 128
"""Of a chunk. Each streams the whole weight: with 32,000 words of 384 values and chunks of 32 rows
the head took 1.3 times the processor seconds of 128 rows; 512 and 1,024 gave nothing more
(2026-11-22, one thread of a shared machine)."""

FAINT = 80.0
"""Loss of a token above which its probability is near fp32's smallest normal number, exp(-87), and
its logarithm is taken from the logits."""


def linear_cross_entropy(
    hidden_SBH: torch.Tensor,
    weight_VH: torch.Tensor,
    labels_SB: torch.Tensor,
    loss_mask_SB: torch.Tensor,
    *,
    num_rows: int,
    first_row: int,
    group: Any,
    sequence_parallel: bool,
) -> torch.Tensor:
    """Cross entropy of each token, fp32 [S, B]; 0 where `loss_mask_SB` is.

    Of the weight's V rows the first `num_rows` are words, the first one being `first_row` of the
    vocabulary; the others are padding. `group`: tensor ranks, each with its rows; with
    `sequence_parallel` each brings its part of the tokens. The gradient that arrives must be the
    same for all tokens with loss, as that of a sum is; anything else fails.
    """
    return _LinearCrossEntropy.apply(
        hidden_SBH, weight_VH, labels_SB, loss_mask_SB, num_rows, first_row, group,
        sequence_parallel,
    )  # fmt: skip


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SBH: torch.Tensor,
        weight_VH: torch.Tensor,
        labels_SB: torch.Tensor,
        loss_mask_SB: torch.Tensor,
        num_rows: int,
        first_row: int,
        group: Any,
        sequence_parallel: bool,
    ) -> torch.Tensor:
        total_SBH = hidden_SBH
        if sequence_parallel:
            total_SBH = gather_from_sequence_parallel_region(hidden_SBH, group=group)
        hidden_TH = total_SBH.reshape(-1, total_SBH.shape[-1])
        counts_T = loss_mask_SB.reshape(-1) > 0
        kept_K: torch.Tensor | None = None
        counts_K: torch.Tensor | None = counts_T
        if hidden_TH.device.type == "cpu":  # elsewhere to ask is to wait
            kept_K = None if counts_T.all() else counts_T.nonzero().flatten()
            counts_K = None
        pick = (lambda t: t) if kept_K is None else (lambda t: t.index_select(0, kept_K))
        hidden_KH, labels_K = pick(hidden_TH), pick(labels_SB.reshape(-1)) - first_row
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        words_VH = weight_VH[: max(1, num_rows)]
        loss_K = torch.empty(len(hidden_KH), device=hidden_TH.device)
        grad_KH = torch.empty_like(hidden_KH) if needs_hidden else None
        grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        kind = "cpu" if hidden_TH.device.type == "cpu" else "gpu"
        step = max(LEAST_ROWS, CHUNK_BYTES[kind] // (4 * len(words_VH)))
        for first in range(0, len(hidden_KH), step):
            chunk = slice(first, first + step)
            logits = _logits(hidden_KH[chunk], words_VH)
            if num_rows < 1:  # a rank of padding only
                logits.fill_(float("-inf"))
            again = partial(_logits, hidden_KH[chunk], words_VH)
            loss_K[chunk] = _cross_entropy(logits, labels_K[chunk], group, again)
            if counts_K is not None:
                logits *= counts_K[chunk, None]
            grad = logits.to(weight_VH.dtype)
            if grad_KH is not None:
                torch.mm(grad, words_VH, out=grad_KH[chunk])
            if grad_VH is not None and grad.dtype == torch.float32:
                grad_VH[: len(words_VH)].addmm_(grad.t(), hidden_KH[chunk])
            elif grad_VH is not None:
                grad_VH[: len(words_VH)] += torch.mm(grad.t(), hidden_KH[chunk])
        ctx.grad_SBH, ctx.grad_VH = None, None
        ctx.save_for_backward(counts_T)
        if grad_VH is not None:
            ctx.grad_VH = grad_VH.to(weight_VH.dtype)
        if grad_KH is not None:
            grad_TH = grad_KH
            if kept_K is not None:
                grad_TH = torch.zeros_like(hidden_TH).index_copy_(0, kept_K, grad_KH)
            grad_SBH = grad_TH.view(total_SBH.shape)
            if sequence_parallel:
                grad_SBH = reduce_scatter_to_sequence_parallel_region(grad_SBH, group=group)
            elif group.size() > 1:
                dist.all_reduce(grad_SBH, group=group)
            ctx.grad_SBH = grad_SBH
        loss_T = loss_K
        if kept_K is not None:
            loss_T = loss_K.new_zeros(len(hidden_TH)).index_copy_(0, kept_K, loss_K)
        return loss_T.view(labels_SB.shape) * loss_mask_SB

    @staticmethod
    def backward(ctx: Any, grad_SB: torch.Tensor) -> Any:
        (counts_T,) = ctx.saved_tensors
        grad_T = grad_SB.reshape(-1)
        scale = grad_T[counts_T.byte().argmax()]
        torch._assert_async(((grad_T == scale) | ~counts_T).all(), "the loss is not a sum")
        made = (grad if grad is None else grad.mul_(scale) for grad in (ctx.grad_SBH, ctx.grad_VH))
        return *made, *[None] * 6


def _logits(
    hidden_KH: torch.Tensor, words_VH: torch.Tensor, rows_R: torch.Tensor | None = None
) -> torch.Tensor:
    """fp32; of all K tokens, or of those in `rows_R`."""
    return torch.mm(hidden_KH if rows_R is None else hidden_KH[rows_R], words_VH.t()).float()


def _cross_entropy(
    logits_KV: torch.Tensor,
    labels_K: torch.Tensor,
    group: Any,
    logits_again: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Of each row; turns the logits into their gradient in place. logits_again: of some rows."""
    at_K = torch.arange(len(labels_K), device=labels_K.device)
    if group.size() == 1 and logits_KV.device.type == "cpu":
        torch.softmax(logits_KV, 1, out=logits_KV)  # half the passes of log_softmax and exp
        loss_K = -logits_KV[at_K, labels_K].log()
        logits_KV[at_K, labels_K] -= 1
        faint_R = (loss_K > FAINT).nonzero().flatten()
        if len(faint_R):
            again_RV = logits_again(faint_R)
            loss_K[faint_R] = F.cross_entropy(again_RV, labels_K[faint_R], reduction="none")
        return loss_K
    if group.size() == 1:  # to look for faint rows would be to wait
        torch.log_softmax(logits_KV, 1, out=logits_KV)  # one kernel; by hand it is five
        loss_K = -logits_KV[at_K, labels_K]
        logits_KV.exp_()[at_K, labels_K] -= 1
        return loss_K
    num_rows = logits_KV.shape[1]
    largest_K = logits_KV.amax(1)
    dist.all_reduce(largest_K, op=dist.ReduceOp.MAX, group=group)
    logits_KV.sub_(largest_K[:, None])
    inside_K = (labels_K >= 0) & (labels_K < num_rows)
    own_K = labels_K.clamp(0, num_rows - 1)
    found_K = logits_KV[at_K, own_K].where(inside_K, 0.0)
    dist.all_reduce(found_K, group=group)
    sums_K = logits_KV.exp_().sum(1)
    dist.all_reduce(sums_K, group=group)
    logits_KV.div_(sums_K[:, None])[at_K, own_K] -= inside_K.float()
    return sums_K.log() - found_K
