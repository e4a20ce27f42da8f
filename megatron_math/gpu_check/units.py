"""Norm, attention and loss on this device against plain fp32 formulas on the CPU.

The plain side shares no code with the kernels: whole score matrices, repeated key/value heads,
whole logits. Values and all gradients are compared, in fp32 and in bf16.

Shapes: S sequence, B rows, H hidden, N query and G key/value heads, D head size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from megatron_math.device.grid import Grid
from megatron_math.device.open import current_torch_device, open_device
from megatron_math.gpu_check.rows import Row, Save, compared
from megatron_math.gpu_check.settings import Settings
from megatron_math.model import head, layers
from megatron_math.model.build import transformer_config
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset

Function = Callable[..., torch.Tensor]
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference over the largest value. bf16 has steps of 2^-8 = 3.9e-3."""


def check_units(settings: Settings, save: Save) -> None:
    """All units one after the other."""
    rows: list[Row] = []
    with open_device(Grid(), seed=1):
        for dtype in (torch.float32, torch.bfloat16):
            rows += norm_rows(dtype)
            save(rows)
            rows += attention_rows(dtype, settings.attention_length)
            save(rows)
            rows += loss_rows(dtype)
            save(rows)


def norm_rows(dtype: torch.dtype) -> list[Row]:
    hidden_size = 256
    config = _config(dtype, hidden_size=hidden_size)
    norm = layers.RMSNorm(config, hidden_size, eps=1e-5)
    generator = torch.Generator().manual_seed(2)
    size_S11 = torch.logspace(-2.5, 0.5, 33)[:, None, None]  # the small ones feel eps
    hidden = torch.randn(33, 2, hidden_size, generator=generator) * size_S11
    weight = torch.rand(hidden_size, generator=generator) + 0.5

    def on_device(hidden_SBH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight_H}, (hidden_SBH,))

    def plain(hidden_SBH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
        return hidden_SBH / (hidden_SBH.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_H

    return _rows("norm", on_device, plain, [hidden, weight], dtype)


def attention_rows(dtype: torch.dtype, length: int) -> list[Row]:
    """Causal, inside documents, in a window, with as many and with fewer key/value heads."""
    rows = []
    cuts = (0, length // 7, length // 2, length - 5, length)  # uneven, the last one short
    ids_BS = torch.zeros(2, length, dtype=torch.int32)
    for number, (begin, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        ids_BS[0, begin:end] = number
    ids_BS[1, length // 3 :] = 1
    kind = "cpu" if current_torch_device().type == "cpu" else "gpu"
    known = layers.MULTIPLICATIONS_A_CALL[kind]
    for what, documents, groups, window, by_document in (
        ("attention, whole rows", None, 4, None, False),
        ("attention, whole rows, 4 query heads on 1", None, 1, None, False),
        ("attention, documents under a mask, 4 on 2", ids_BS, 2, None, False),
        ("attention, documents one by one, 4 on 2", ids_BS, 2, None, True),
        ("attention, documents, window, 4 on 2", ids_BS, 2, length // 5, False),
    ):
        layers.MULTIPLICATIONS_A_CALL[kind] = 1 if by_document else 1 << 60
        try:
            rows += _attention_rows(what, dtype, length, documents, groups, window)
        finally:
            layers.MULTIPLICATIONS_A_CALL[kind] = known
    return rows


def _attention_rows(
    what: str,
    dtype: torch.dtype,
    length: int,
    ids_BS: torch.Tensor | None,
    groups: int,
    window: int | None,
) -> list[Row]:
    heads, size = 4, 64
    config = _config(
        dtype, hidden_size=heads * size, num_attention_heads=heads, num_query_groups=groups,
        **({} if window is None else {"sliding_window": window, "family": "mistral"}),
    )  # fmt: skip
    attention = layers.DocumentAttention(
        config, 1, layers.AttnMaskType.causal, "self", softmax_scale=None
    )
    generator = torch.Generator().manual_seed(3)
    shapes = [(length, 2, count, size) for count in (heads, groups, groups)]
    given = [torch.randn(shape, generator=generator) for shape in shapes]

    def on_device(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attention(query, key, value, ids_BS)

    def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = (t.repeat_interleave(heads // groups, 2) for t in (key, value))
        scores_BNSS = torch.einsum("sbnd,tbnd->bnst", query, key) * size**-0.5
        at_S = torch.arange(length)
        distance_SS = at_S[:, None] - at_S[None]
        seen = (distance_SS >= 0) & (distance_SS < (window or length))
        if ids_BS is not None:
            seen = seen & (ids_BS[:, :, None] == ids_BS[:, None])
        seen = seen.expand(2, length, length)[:, None]
        weights_BNSS = scores_BNSS.masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("bnst,tbnd->sbnd", weights_BNSS, value).flatten(2)

    return _rows(what, on_device, plain, given, dtype)


class _OneRank:
    """The tensor group of one process."""

    def size(self) -> int:
        return 1


def loss_rows(dtype: torch.dtype) -> list[Row]:
    """The fused output layer and loss: chunks, padding rows of the vocabulary, tokens without."""
    length, batch, hidden_size, words, padded = 61, 2, 128, 1000, 1024
    generator = torch.Generator().manual_seed(4)
    given = [
        torch.randn(length, batch, hidden_size, generator=generator),
        torch.randn(padded, hidden_size, generator=generator) * 0.1,
    ]
    labels_SB = torch.randint(0, words, (length, batch), generator=generator)
    mask_SB = (torch.rand(length, batch, generator=generator) < 0.7).float()
    device = current_torch_device()
    kind = "cpu" if device.type == "cpu" else "gpu"

    def on_device(hidden_SBH: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
        return head.linear_cross_entropy(
            hidden_SBH, weight_VH, labels_SB.to(device), mask_SB.to(device),
            num_rows=words, first_row=0, group=_OneRank(), sequence_parallel=False,
        )  # fmt: skip

    def plain(hidden_SBH: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
        logits_SBV = hidden_SBH @ weight_VH[:words].T
        picked_SB = logits_SBV.gather(-1, labels_SB[..., None])[..., 0]
        return (logits_SBV.logsumexp(-1) - picked_SB) * mask_SB

    known = head.CHUNK_BYTES[kind]
    head.CHUNK_BYTES[kind] = 4 * words * 40  # several chunks, the last one uneven
    try:
        return _rows("output layer and loss", on_device, plain, given, dtype, is_sum=True)
    finally:
        head.CHUNK_BYTES[kind] = known


def _config(dtype: torch.dtype, **fields: Any) -> Any:
    """Core's configuration of a small model."""
    model: ModelConfig = load_preset("tiny", {"head_dim": None, **fields})
    return transformer_config(model, grid=Grid(), dtype=dtype)


def _rows(
    what: str,
    on_device: Function,
    plain: Function,
    given: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    is_sum: bool = False,
) -> list[Row]:
    """One row: the worst of value and gradients. Both sides get values that `dtype` has.

    is_sum: the gradient of the sum is taken, otherwise that of a random direction.
    """
    rounded = [tensor.to(dtype) for tensor in given]
    exact = _with_gradients(plain, [t.float() for t in rounded], torch.float32, is_sum)
    placed = [tensor.to(current_torch_device()) for tensor in rounded]
    found = _with_gradients(on_device, placed, dtype, is_sum)
    errors = {}
    names = ("value", *(f"gradient {number}" for number in range(len(given))))
    for name, mine, theirs in zip(names, found, exact, strict=True):
        difference = (mine.detach().float().cpu() - theirs.detach()).abs().max()
        errors[name] = float(difference / theirs.detach().abs().max())
    label = f"{what}, {str(dtype).removeprefix('torch.')}"
    # max() would let a NaN pass behind a number
    worst = max(errors.values(), key=lambda error: float("inf") if error != error else error)
    return [compared(label, worst, LIMITS[dtype], errors=errors)]


def _with_gradients(
    function: Function, given: Sequence[torch.Tensor], dtype: torch.dtype, is_sum: bool
) -> list[torch.Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    value = function(*leaves)
    direction = torch.ones(value.shape)
    if not is_sum:
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
    direction = direction.to(torch.bfloat16).to(value.device, value.dtype)
    return [value, *torch.autograd.grad(value, leaves, direction)]
