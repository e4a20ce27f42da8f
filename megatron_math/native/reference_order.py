"""The order builders in plain NumPy and exact Python numbers: what csrc/order.cpp must equal."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
MASK_32, MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def splitmix64(key: int, counter: int) -> int:
    """Number `counter` of the sequence of Steele, Lea and Flood (2014) from state `key`."""
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK_64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK_64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK_64
    return z ^ (z >> 31)


def permute(key: int, num_items: int, first: int, count: int) -> Int64Array:
    """The whole network on each point, one half round after the other; see `order.permute`."""
    _check_positions(first, count, num_items)
    points = np.arange(first, first + count, dtype=np.int64)
    return _permute_points(key, num_items, points)


def _permute_points(key: int, num_items: int, points: Int64Array) -> Int64Array:
    if not 1 <= num_items <= 1 << 62:
        raise ValueError(f"num_items must be in [1, 2^62], found {num_items}")
    rows = math.isqrt(num_items - 1) + 1
    columns = -(-num_items // rows)
    state = splitmix64(key, 0)
    left, right = (part.astype(np.uint64) for part in np.divmod(points, columns))
    for i in range(16 if num_items < 4096 else 6):
        bits = splitmix64(state, i)
        if i % 2 == 0:
            left = (left + _round_value(right, bits, rows)) % np.uint64(rows)
        else:
            right = (right + _round_value(left, bits, columns)) % np.uint64(columns)
    images = (left * np.uint64(columns) + right).astype(np.int64)
    outside = images >= num_items
    if outside.any():
        images[outside] = _permute_points(key, num_items, images[outside])
    return images


def _round_value(values: npt.NDArray[np.uint64], bits: int, modulus: int) -> npt.NDArray[np.uint64]:
    """A 32-bit hash of each value under 64 bits of round key, scaled to 0..modulus-1."""
    mask = np.uint64(MASK_32)
    h = values ^ np.uint64(bits & MASK_32)
    h = (h ^ (h >> np.uint64(16))) * np.uint64(0x7FEB352D) & mask
    h = (h ^ (h >> np.uint64(15))) + np.uint64(bits >> 32) & mask
    h = h * np.uint64(0x846CA68B) & mask
    return h * np.uint64(modulus) >> np.uint64(32)


def epoch_documents(
    lengths: Int32Array,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    first: int,
    count: int,
) -> tuple[Int64Array, Int64Array]:
    """The split permutation behind the epoch's; see `order.epoch_documents`."""
    if not 0 <= num_held_out < len(lengths):
        raise ValueError(f"num_held_out {num_held_out} of {len(lengths)} documents")
    training = permute(epoch_key, len(lengths) - num_held_out, first, count)
    documents = _permute_points(split_key, len(lengths), num_held_out + training)
    found = lengths[documents].astype(np.int64)
    if (found < 0).any():
        raise ValueError(f"a document has length {found.min()}")
    return documents, found


def segment_totals(
    lengths: Int32Array,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    align: int,
    segment_documents: int,
    first_segment: int,
    num_segments: int,
) -> Int64Array:
    """The sums of slices of the whole epoch; see `order.segment_totals`."""
    if align < 1 or segment_documents < 1:
        raise ValueError(f"align {align} and segment_documents {segment_documents} must be >= 1")
    keys = (split_key, epoch_key, num_held_out)
    found = epoch_documents(lengths, *keys, 0, len(lengths) - num_held_out)[1]
    slots = -(-found // align) * align
    begins = np.arange(0, len(found), segment_documents)
    _check_positions(first_segment, num_segments, len(begins))
    totals = np.stack([np.add.reduceat(part, begins) for part in (found, slots)], axis=1)
    return totals[first_segment : first_segment + num_segments]


def document_totals(
    lengths: Int32Array,
    first_document: int,
    num_documents: int,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    align: int,
    segment_documents: int,
) -> Int64Array:
    """`segment_totals` of documents of which all others are empty; see `order.document_totals`."""
    _check_positions(first_document, len(lengths), num_documents)
    others = np.zeros(num_documents, dtype=np.int32)
    others[first_document : first_document + len(lengths)] = lengths
    if (lengths < 0).any():
        raise ValueError(f"a document has length {lengths.min()}")
    num_segments = -(-(num_documents - num_held_out) // segment_documents)
    keys = (split_key, epoch_key, num_held_out)
    return segment_totals(others, *keys, align, segment_documents, 0, num_segments)


def _check_positions(first: int, count: int, num_items: int) -> None:
    if first < 0 or count < 0 or first + count > num_items:
        raise ValueError(f"positions {first} and {count} on are not all among {num_items}")


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


def locate(
    order_N: npt.NDArray[np.unsignedinteger],
    counts_before: Int64Array,
    block_samples: int,
    samples: Int64Array,
) -> tuple[Int32Array, Int64Array]:
    """Counted from the first sample on; see `order.locate`. counts_before is taken as right."""
    if samples.size and not 0 <= samples.min() <= samples.max() < len(order_N):
        raise IndexError(f"samples {samples} of {len(order_N)}")
    source_B = order_N[samples].astype(np.int32)
    number_B = [
        np.count_nonzero(order_N[:sample] == order_N[sample]) for sample in samples.tolist()
    ]
    return source_B, np.array(number_B, dtype=np.int64)


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
