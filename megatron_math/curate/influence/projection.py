"""Random projection of long vectors whose parts come one after another; no matrix is ever stored.

Coordinates are numbered as they come. Each run of d of them is given random signs, carried to the d
outputs by a random permutation and added there: a count sketch (Charikar et al. 2002) in which no
two coordinates of a run meet, and any two of different runs do with probability 1 / d. Dot products
are kept in expectation, with a variance of at most (|x|^2 |y|^2 + <x, y>^2) / d, which is that of a
dense matrix of random signs; the work is that of adding the coordinates up, for any d. Signs and
permutations are hashes of a seed and the number of the coordinate or run, the same on any machine.

Shapes: P coordinates, B rows, d dimension, R runs.
"""

import hashlib

import torch
import torch.nn.functional as F

RUN_GROUP_NUMBERS = 1 << 24
"""Numbers that are carried at once: 64 MiB, and thrice as much beside them."""

_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SIGN_BITS = 32


def mixed(numbers: torch.Tensor, key: int) -> torch.Tensor:
    """A hash of every number (int64), the finalizer of SplitMix64 (Steele et al. 2014)."""
    mixed = numbers * (0x9E3779B97F4A7C15 - (1 << 64)) + key  # int64 wraps around
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        mixed = (mixed ^ _shifted(mixed, shift)) * multiplier
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, zeros coming in; torch brings the sign in."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


class Projection:
    """Rows of P coordinates to rows of `dimension` numbers, or whole rows where that is None.

    `add` the parts in the same order every time, then `finish`.
    """

    def __init__(self, dimension: int | None, seed: str) -> None:
        self.dimension = dimension
        self._keys = [
            int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:7], "little")
            for what in ("signs", "permutations")
        ]
        self._waiting: list[torch.Tensor] = []
        self._num_waiting = 0
        self._num_runs = 0
        self._sum_dB: torch.Tensor | None = None

    def add(self, part_PB: torch.Tensor) -> None:
        """The next coordinates of all rows, one coordinate a line."""
        self._waiting.append(part_PB)
        self._num_waiting += len(part_PB)
        if self.dimension is not None and self._num_waiting >= self.dimension:
            self._carry(self._num_waiting // self.dimension * self.dimension)

    def finish(self) -> torch.Tensor:
        """The rows [B, d]; the next ones may begin."""
        if self.dimension is None:
            rows_BP = torch.cat(self._waiting).t().contiguous()
        else:
            missing = -self._num_waiting % self.dimension
            if missing:
                self.add(self._waiting[0].new_zeros(missing, self._waiting[0].shape[1]))
            assert self._sum_dB is not None
            rows_BP = self._sum_dB.t().contiguous()
        self._waiting, self._num_waiting, self._num_runs, self._sum_dB = [], 0, 0, None
        return rows_BP

    def _carry(self, num_ready: int) -> None:
        assert self.dimension is not None
        waiting_PB = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        ready_PB, left_PB = waiting_PB[:num_ready], waiting_PB[num_ready:]
        self._waiting = [left_PB] if len(left_PB) else []
        self._num_waiting = len(left_PB)
        runs_RdB = ready_PB.view(-1, self.dimension, ready_PB.shape[1])
        step = max(1, RUN_GROUP_NUMBERS // runs_RdB[0].numel())
        for first in range(0, len(runs_RdB), step):
            group_RdB = runs_RdB[first : first + step]
            source_Rd, sign_Rd = self.moves(len(group_RdB), ready_PB.device)
            source_Rd += torch.arange(len(group_RdB), device=source_Rd.device)[:, None] * (
                self.dimension
            )
            moved_PB = group_RdB.reshape(-1, group_RdB.shape[2])[source_Rd.flatten()]
            moved_PB *= sign_Rd.flatten()[:, None]
            sum_dB = moved_PB.view_as(group_RdB).sum(0)
            self._sum_dB = sum_dB if self._sum_dB is None else self._sum_dB.add_(sum_dB)
            self._num_runs += len(group_RdB)

    def moves(self, num_runs: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the next runs: for each output the coordinate that goes there, and its sign."""
        assert self.dimension is not None
        run_R = torch.arange(self._num_runs, self._num_runs + num_runs, device=device)
        hash_R = mixed(run_R, self._keys[1])
        mask = self.dimension - 1
        step_R = (hash_R & mask) | 1  # odd, so that no two coordinates of a run meet
        begin_R = _shifted(hash_R, 32) & mask
        at_d = torch.arange(self.dimension, device=device)
        source_Rd = (step_R[:, None] * at_d + begin_R[:, None]) & mask
        word_RW = run_R[:, None] * (self.dimension // _SIGN_BITS) + torch.arange(
            self.dimension // _SIGN_BITS, device=device
        )
        bit = torch.arange(_SIGN_BITS, device=device)
        bits_RWb = (mixed(word_RW, self._keys[0])[..., None] >> bit) & 1
        return source_Rd, (2 * bits_RWb - 1).view(num_runs, -1).to(torch.float32)


def unit_rows(rows_BP: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1; a row of zeros stays."""
    return F.normalize(rows_BP, dim=1, eps=1e-30)
