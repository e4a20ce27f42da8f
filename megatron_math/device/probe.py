"""The same small computation on every rank, timed now and then: how fast is this device?"""

from collections import deque
from typing import Any

import torch

from megatron_math.device.gauge import Clock

WIDTH = {"cpu": 128, "cuda": 2048}
TIMES = 3
"""Products in a row; the fastest counts, so that a moment with other work is no slow device."""
REMEMBERED = 5


class Probe:
    """`run` hands it to the device; `seconds`, a step later, waits for nothing."""

    def __init__(self, torch_device: torch.device, clock: Clock) -> None:
        width = WIDTH[torch_device.type]
        self._values = torch.ones(width, width, device=torch_device)
        self._product = torch.empty_like(self._values)
        self._clock = clock
        self._marks: list[Any] = []
        self._fastest: deque[float] = deque(maxlen=REMEMBERED)

    def run(self) -> None:
        self._marks = [self._clock.mark()]
        for _ in range(TIMES):
            torch.mm(self._values, self._values, out=self._product)
            self._marks.append(self._clock.mark())

    def seconds(self) -> float | None:
        """Of one product, the fastest of the last runs."""
        if self._marks:
            pairs = zip(self._marks[:-1], self._marks[1:], strict=True)
            self._fastest.append(min(self._clock.seconds(*pair) for pair in pairs))
            self._marks = []
        return min(self._fastest, default=None)
