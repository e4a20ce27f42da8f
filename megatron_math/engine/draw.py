"""Which token comes next: the likeliest, or one drawn by temperature and top_p.

Each row draws with numbers of its own, from the request's seed and the sample's number, so that who
shares its batch does not matter. torch is imported when a token is chosen, not before.

Shapes: B rows of the batch, D of them that draw, V tokens of the vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_math.engine.interface import Request


@dataclass(frozen=True)
class Draw:
    """How one sample of one request is drawn."""

    temperature: float
    top_p: float
    numbers: random.Random

    @staticmethod
    def of(request: Request, sample: int) -> "Draw | None":
        """None where the likeliest token is taken. Sample s has the seed of the request plus s."""
        if request.temperature == 0:
            return None
        seed = None if request.seed is None else request.seed + sample
        return Draw(request.temperature, request.top_p, random.Random(seed))


def choose(logits_BV: Any, draws: Sequence[Draw | None]) -> Any:
    """One token id a row, as a tensor of B."""
    import torch

    tokens_B = logits_BV.argmax(-1)
    drawing = {row: draw for row, draw in enumerate(draws) if draw is not None}
    if not drawing:
        return tokens_B

    def column(values: list[float]) -> Any:
        return torch.tensor(values, dtype=torch.float32, device=logits_BV.device)[:, None]

    rows_D = torch.tensor(list(drawing), device=logits_BV.device)
    scaled_DV = logits_BV[rows_D].float() / column([d.temperature for d in drawing.values()])
    shares_DV, order_DV = scaled_DV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before_DV = shares_DV.cumsum(-1) - shares_DV
    shares_DV[before_DV >= column([draw.top_p for draw in drawing.values()])] = 0
    shares_DV[:, 0].clamp_(min=torch.finfo(torch.float32).tiny)
    ends_DV = shares_DV.cumsum(-1)
    drawn_D1 = column([draw.numbers.random() for draw in drawing.values()]) * ends_DV[:, -1:]
    last_D1 = (shares_DV > 0).sum(-1, keepdim=True) - 1
    place_D1 = torch.minimum((ends_DV <= drawn_D1).sum(-1, keepdim=True), last_D1)
    tokens_B[rows_D] = order_DV.gather(-1, place_D1)[:, 0]
    return tokens_B
