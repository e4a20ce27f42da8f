"""The order builders in plain NumPy and exact Python numbers: what csrc/order.cpp must equal."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def permutation(key: int, num_items: int) -> Int64Array:
    """Indices in the order of their splitmix64 ranks; see `order.permutation`."""
    with np.errstate(over="ignore"):
        counter = np.arange(1, num_items + 1, dtype=np.uint64)
        rank = np.uint64(key) + counter * np.uint64(0x9E3779B97F4A7C15)
        rank = (rank ^ (rank >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        rank = (rank ^ (rank >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        rank = rank ^ (rank >> np.uint64(31))
    return np.argsort(rank, kind="stable")


def sample_index(lengths: Int64Array, sequence_length: int, stream_offset: int) -> Int64Array:
    """Search every sample start among the documents' ends; see `order.sample_index`."""
    _check_lengths(lengths, sequence_length)
    if stream_offset < 0:
        raise ValueError(f"stream_offset {stream_offset} is negative")
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    sample_starts = np.arange(-stream_offset % sequence_length, total, sequence_length)
    positions = np.searchsorted(ends, sample_starts, side="right")
    begins = ends - lengths
    return np.stack([positions, sample_starts - begins[positions]], axis=1).astype(np.int64)


def pack_index(
    lengths: Int64Array, sequence_length: int, align: int, window: int
) -> tuple[Int64Array, Int64Array]:
    """Best fit with lists; see `order.pack_index`."""
    _check_lengths(lengths, sequence_length)
    if align < 1 or sequence_length % align or window < 1:
        raise ValueError(f"unusable align {align} or window {window} for {sequence_length}")
    packs: list[list[tuple[int, int, int]]] = []
    open_bins: list[list[tuple[int, int, int]]] = []  # in order of opening
    rooms: list[int] = []

    def close(number: int) -> None:
        packs.append(open_bins.pop(number))
        rooms.pop(number)

    for position, length in enumerate(lengths.tolist()):
        whole_pieces = length // sequence_length
        packs += [[(position, i * sequence_length, sequence_length)] for i in range(whole_pieces)]
        tail = length % sequence_length
        if not tail:
            continue
        slot = -(-tail // align) * align
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= slot]
        if not fitting:
            if len(rooms) == window:
                close(rooms.index(min(rooms)))
            open_bins.append([])
            rooms.append(sequence_length)
            fitting = [(sequence_length, len(rooms) - 1)]
        _, number = min(fitting)
        open_bins[number].append((position, length - tail, tail))
        rooms[number] -= slot
        if rooms[number] == 0:
            close(number)
    packs += open_bins
    starts = np.cumsum([0] + [len(pack) for pack in packs], dtype=np.int64)
    pieces = [piece for pack in packs for piece in pack]
    return np.array(pieces, dtype=np.int64).reshape(-1, 3), starts


def blend_order(
    starts: Int64Array,
    bases: Int64Array,
    shares: Int64Array,
    sizes: Sequence[Int64Array],
    more: Sequence[bool],
    sequence_length: int,
    max_tokens: int,
    given: Sequence[int],
) -> tuple[npt.NDArray[np.int32], Int64Array]:
    """Earliest deadline among the eligible, with fractions; see `order.blend_order`."""
    targets = [
        _Target(starts.tolist(), bases[:, j].tolist(), Fraction(share, max(1, int(shares.sum()))))
        for j, share in enumerate(shares.tolist())
    ]
    given = [int(tokens) for tokens in given]
    taken = [0] * len(targets)
    order: list[int] = []
    while sum(given) < max_tokens:
        left = [len(sizes[j]) - taken[j] for j in range(len(targets))]
        if any(left[j] == 0 and more[j] for j in range(len(targets))) or not any(left):
            break
        due = []
        for j, target in enumerate(targets):
            if left[j]:
                size = int(sizes[j][taken[j]])
                if given[j] < target.at(sum(given) + size):
                    due.append((target.reaches(given[j] + sequence_length), j, size))
        if not due:
            raise ValueError(f"no source is due at {sum(given)} tokens")
        _, j, size = min(due)
        order.append(j)
        given[j] += size
        taken[j] += 1
    return np.array(order, dtype=np.int32), np.array(given, dtype=np.int64)


class _Target:
    """One source's tokens as a function of the mix's: whole at the bends, then a constant rate."""

    def __init__(self, starts: list[int], bases: list[int], rate: Fraction) -> None:
        self.starts, self.bases = starts, bases
        self.rates = [
            Fraction(bases[k + 1] - bases[k], starts[k + 1] - starts[k])
            for k in range(len(starts) - 1)
        ] + [rate]

    def at(self, tokens: int) -> Fraction:
        k = max(k for k, start in enumerate(self.starts) if start <= tokens)
        return self.bases[k] + self.rates[k] * (tokens - self.starts[k])

    def reaches(self, value: int) -> Fraction:
        """The smallest W with at(W) >= value, or where the target stops growing."""
        if self.rates[-1] == 0:
            value = min(value, self.bases[-1])
        ends = [*self.bases[1:], value]
        k = next(k for k, end in enumerate(ends) if end >= value)
        return self.starts[k] + Fraction(value - self.bases[k]) / self.rates[k]


def _check_lengths(lengths: Int64Array, sequence_length: int) -> None:
    if sequence_length < 1 or (lengths < 1).any():
        raise ValueError(f"lengths {lengths} and sequence_length {sequence_length} must be >= 1")
