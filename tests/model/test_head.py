"""Output layer and loss in one against the plain way: losses, gradients, and what is in memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_math.model import head

TOKENS, BATCH, HIDDEN = 37, 2, 24


class OneRank:
    def size(self) -> int:
        return 1


def inputs(num_rows: int, padded: int, share: float, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(num_rows)
    hidden_SBH = torch.randn(TOKENS, BATCH, HIDDEN, generator=generator).to(dtype)
    weight_VH = torch.randn(padded, HIDDEN, generator=generator).to(dtype)
    labels_SB = torch.randint(0, num_rows, (TOKENS, BATCH), generator=generator)
    mask_SB = (torch.rand(TOKENS, BATCH, generator=generator) < share).float()
    return hidden_SBH.requires_grad_(), weight_VH.requires_grad_(), labels_SB, mask_SB


def ours(hidden_SBH, weight_VH, labels_SB, mask_SB, num_rows):
    return head.linear_cross_entropy(
        hidden_SBH, weight_VH, labels_SB, mask_SB,
        num_rows=num_rows, first_row=0, group=OneRank(), sequence_parallel=False,
    )  # fmt: skip


def plain(hidden_SBH, weight_VH, labels_SB, mask_SB, num_rows):
    logits = (hidden_SBH @ weight_VH[:num_rows].t()).float().flatten(0, 1)
    loss = F.cross_entropy(logits, labels_SB.flatten(), reduction="none")
    return loss.view_as(mask_SB) * mask_SB


def gradients(way, given, num_rows, scale):
    loss_SB = way(*given, num_rows)
    return loss_SB.detach(), *torch.autograd.grad(loss_SB.sum() * scale, given[:2])


@given(st.integers(1, 90), st.integers(0, 8), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 99))
@settings(max_examples=40, deadline=None)
def test_losses_and_gradients_are_those_of_whole_logits(rows, padding, share, chunk_rows) -> None:
    given = inputs(rows, rows + padding, share, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(head.CHUNK_BYTES, "cpu", 4 * rows * chunk_rows)
        patch.setattr(head, "LEAST_ROWS", 16)
        found = gradients(ours, given, rows, 8.0)
    for mine, theirs in zip(found, gradients(plain, given, rows, 8.0), strict=True):
        assert (mine - theirs).abs().max() <= 1e-6 * theirs.abs().max() + 1e-30
    assert not found[2][rows:].any()  # padding rows learn nothing


def test_half_precision_stays_as_close_as_its_rounding() -> None:
    given = inputs(80, 96, 0.5, torch.bfloat16)
    exact = inputs(80, 96, 0.5, torch.float32)
    exact = (*(part.to(torch.bfloat16).float().detach().requires_grad_() for part in exact[:2]),
             *exact[2:])  # fmt: skip
    for mine, theirs in zip(
        gradients(ours, given, 80, 1.0), gradients(plain, exact, 80, 1.0), strict=True
    ):
        assert (mine.float() - theirs).abs().max() < 0.02 * theirs.abs().max()


@pytest.mark.parametrize("logit", [79.0, 86.0, 95.0, 200.0, 3e4])
def test_a_word_without_probability_in_fp32_has_its_loss(logit) -> None:
    weight_VH = torch.zeros(5, HIDDEN).index_fill_(0, torch.tensor([2]), logit / HIDDEN)
    hidden_SBH, labels_SB = torch.ones(3, 1, HIDDEN), torch.tensor([[0], [2], [4]])
    given = hidden_SBH.requires_grad_(), weight_VH.requires_grad_(), labels_SB, torch.ones(3, 1)
    for mine, theirs in zip(
        gradients(ours, given, 5, 1.0), gradients(plain, given, 5, 1.0), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_a_logit_that_is_no_number_has_no_loss() -> None:
    given = inputs(7, 7, 1.0, torch.float32)
    with torch.no_grad():
        given[0][3, 1] = float("nan")
    loss_SB = ours(*given, 7).detach()
    assert loss_SB.isnan().sum() == 1
    assert loss_SB[3, 1].isnan()


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_whole_logits_never_exist(monkeypatch) -> None:
    rows = 5000
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 4 * rows * 16)
    monkeypatch.setattr(head, "LEAST_ROWS", 16)
    given = inputs(rows, rows, 1.0, torch.float32)
    for way, whole in ((ours, False), (plain, True)):
        with Largest() as largest:
            gradients(way, given, rows, 1.0)
        assert (largest.elements >= TOKENS * BATCH * rows) == whole


def test_tokens_without_loss_cost_no_product(monkeypatch) -> None:
    asked = []
    product = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, **out: asked.append(len(a)) or product(a, b, **out)
    )
    given = inputs(90, 90, 0.3, torch.float32)
    ours(*given, 90)
    assert sum(asked) == 2 * int(given[3].sum())  # logits, and the gradient of the hidden state


def test_a_loss_that_is_no_sum_fails() -> None:
    given = inputs(50, 50, 1.0, torch.float32)
    weights_SB = torch.linspace(1, 2, TOKENS)[:, None].expand(-1, BATCH)
    with pytest.raises(RuntimeError, match="the loss is not a sum"):
        (ours(*given, 50) * weights_SB).sum().backward()
