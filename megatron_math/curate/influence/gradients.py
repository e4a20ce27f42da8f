"""Gradients of every text of a batch by itself, for the factors of all adapters.

A batch goes forward and backward once, as in training. Where the gradient of an adapted map's
output comes by, those of its two factors follow for each text from what the map was given (the
layer's own product rule, with the sum over texts left out), are turned into what is compared, and
go into the projection: gradients of a whole model are never in memory.

Shapes: S positions, B texts, I inputs and O outputs of a map, r rank, P numbers of a factor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from megatron_math.curate.influence.projection import Projection, unit_rows
from megatron_math.curate.influence.texts import Text
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import adapted_maps


@dataclass(frozen=True)
class AdamState:
    """The optimizer as a checkpoint has it: what one more step on a gradient would do.

    moments: of each factor, flat.
    """

    beta1: float
    beta2: float
    eps: float
    num_steps: int
    moments: dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]

    def step(self, factor: torch.Tensor, gradient_PB: torch.Tensor) -> torch.Tensor:
        """Adam's step on each gradient, learning rate aside (LESS, section 3.1)."""
        first_P, second_P = self.moments[factor]
        first_PB = (1 - self.beta1) * gradient_PB + self.beta1 * first_P[:, None]
        second_PB = gradient_PB.square().mul_(1 - self.beta2).add_(self.beta2 * second_P[:, None])
        second_PB /= 1 - self.beta2 ** (self.num_steps + 1)
        first_PB /= 1 - self.beta1 ** (self.num_steps + 1)
        return first_PB.div_(second_PB.sqrt_().add_(self.eps))


class TextGradients:
    """A model with adapters, and what its texts' gradients are projected to.

    `rows` freezes the model's parameters: no gradient is kept that is not one text's.
    """

    def __init__(self, model: GPT, projection: Projection, *, batch_tokens: int) -> None:
        self.model, self.projection, self.batch_tokens = model, projection, batch_tokens
        self.adam: AdamState | None = None
        self._scale_B = torch.empty(0)
        self._adapted = [adapted for _, _, adapted in adapted_maps(model)]
        self.num_numbers = sum(
            adapted.lora_A.numel() + adapted.lora_B.numel() for adapted in self._adapted
        )

    def rows(self, texts: Sequence[Text], adam: AdamState | None) -> np.ndarray:
        """Unit rows, fp32 [texts, d], in the order of `texts`; zeros for one without loss.

        adam: turn gradients into Adam's steps; None: leave them as they are.
        """
        width = self.projection.dimension or self.num_numbers
        rows = np.zeros((len(texts), width), dtype=np.float32)
        order = sorted(
            (n for n, text in enumerate(texts) if text.num_counted > 0),
            key=lambda n: -len(texts[n].ids),
        )
        self.adam = adam
        begin = 0
        with self._listening():
            while begin < len(order):  # texts of about one length, the longest first
                each = max(1, self.batch_tokens // len(texts[order[begin]].ids))
                batch = order[begin : begin + each]
                rows[batch] = self._batch([texts[n] for n in batch]).cpu().numpy()
                begin += each
        return rows

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self.model.eval().requires_grad_(False)
        handles = [self.model.embedding.register_forward_hook(_wants_gradient)]
        handles += [adapted.register_forward_hook(self._passes) for adapted in self._adapted]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _batch(self, texts: Sequence[Text]) -> torch.Tensor:
        device = next(self.model.parameters()).device
        length = max(len(text.ids) for text in texts) - 1
        tokens_BS = np.zeros((len(texts), length), dtype=np.int64)
        labels_BS, mask_BS = np.zeros_like(tokens_BS), np.zeros(tokens_BS.shape, dtype=np.float32)
        for row, text in enumerate(texts):
            end = len(text.ids) - 1
            tokens_BS[row, :end], labels_BS[row, :end] = text.ids[:-1], text.ids[1:]
            mask_BS[row, text.first - 1 : end] = 1
        positions_BS = torch.arange(length, device=device).expand(len(texts), length)
        mask = torch.from_numpy(mask_BS).to(device)
        # The mean over the text's tokens; the loss itself must be a plain sum (model/head.py).
        self._scale_B = 1 / mask.sum(1)
        loss_BS = self.model(
            torch.from_numpy(tokens_BS).to(device),
            positions_BS,
            None,
            labels=torch.from_numpy(labels_BS).to(device),
            loss_mask=mask,
        )
        (loss_BS * mask).sum().backward()
        return unit_rows(self.projection.finish())

    def _passes(self, adapted: Any, given: tuple[torch.Tensor], output: Any) -> None:
        output[0].register_hook(partial(self._comes_back, adapted, given[0].detach()))

    @torch.no_grad()
    def _comes_back(
        self, adapted: Any, given_SBI: torch.Tensor, gradient_SBO: torch.Tensor
    ) -> None:
        low_SBr = given_SBI @ adapted.lora_A.t()
        back_SBr = gradient_SBO @ adapted.lora_B
        for factor, gradient in (
            (adapted.lora_B, torch.einsum("sbo,sbr->orb", gradient_SBO, low_SBr)),
            (adapted.lora_A, torch.einsum("sbr,sbi->rib", back_SBr, given_SBI)),
        ):
            gradient_PB = gradient.reshape(factor.numel(), -1).float()
            gradient_PB = gradient_PB * (adapted.scale * self._scale_B)
            if self.adam is not None:
                gradient_PB = self.adam.step(factor, gradient_PB)
            self.projection.add(gradient_PB)


def _wants_gradient(module: Any, given: Any, hidden_SBH: torch.Tensor) -> torch.Tensor:
    """Frozen parameters ask for no gradients; without any there is nothing to hook."""
    return hidden_SBH.requires_grad_() if torch.is_grad_enabled() else hidden_SBH
