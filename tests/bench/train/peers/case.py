"""What every side is given: a folder with the same weights, rows of tokens and settings.

    python peers/SIDE.py CASE [--dtype bf16] [flags of the side]

A side prints a line STEP {...} after each optimizer step; who started it takes the time. R rows,
S sequence length, B rows of a step.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

THREADS = 2


@dataclass(frozen=True)
class Case:
    """settings: of model and optimizer, as cases.py wrote them; rows: int32 [R, S + 1]."""

    folder: Path
    dtype: str
    settings: dict[str, Any]
    rows: np.ndarray

    @property
    def hf(self) -> Path:
        return self.folder / "hf"

    @property
    def steps(self) -> int:
        return int(self.settings["steps"])

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(tokens, labels) of each step, int64 [B, S]."""
        size = self.settings["batch"]
        for first in range(0, self.steps * size, size):
            rows = torch.from_numpy(self.rows[first : first + size].astype(np.int64))
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def read_case(folder: Path, dtype: str) -> Case:
    settings = json.loads((folder / "case.json").read_text())
    return Case(folder, dtype, settings, np.load(folder / "rows.npy"))


def given(*flags: str) -> tuple[Case, argparse.Namespace]:
    """The case and further flags from the command line; all sides run on as many threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", type=Path)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args()
    assert torch.get_num_threads() == THREADS, f"OMP_NUM_THREADS must be {THREADS}"
    return read_case(arguments.case, arguments.dtype), arguments


def say(step: int, loss: float, grad_norm: float | None = None) -> None:
    """Tell that optimizer step `step` (from 1) is done; the loss is that before it."""
    told = {"step": step, "loss": loss, "grad_norm": grad_norm}
    print("STEP " + json.dumps(told), flush=True)
