"""The rows of a batch in plain NumPy: what csrc/rows.cpp must equal."""

import numpy as np
import numpy.typing as npt

from megatron_math.native.rows import Int64Array, Rows


def read_rows(
    bin: npt.NDArray[np.integer],
    pieces: Int64Array,
    row_starts: Int64Array,
    sequence_length: int,
    pad_id: int,
    attend_across: bool,
    roles: npt.NDArray[np.uint8] | None = None,
    role_counts: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """One row after the other; see `rows.read_rows`."""
    rows = Rows.empty(len(row_starts) - 1, sequence_length)
    arrays: tuple[npt.NDArray, ...] = rows
    labels_count = np.ones(len(bin), dtype=bool)
    if roles is not None and role_counts is not None:
        labels_count = role_counts[roles]
    for number, (begin, end) in enumerate(zip(row_starts[:-1], row_starts[1:], strict=True)):
        row = _row(
            bin, pieces[begin:end].tolist(), sequence_length, pad_id, attend_across, labels_count
        )
        for array_BS, values_S in zip(arrays, row, strict=True):
            array_BS[number] = values_S
    return rows


def _row(
    bin: npt.NDArray[np.integer],
    pieces: list[list[int]],
    sequence_length: int,
    pad_id: int,
    attend_across: bool,
    labels_count: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray, ...]:
    num_slots = sequence_length + 1
    tokens = np.full(num_slots, pad_id, dtype=np.int64)
    counts = np.zeros(num_slots, dtype=bool)  # may this token be a label?
    filled = np.zeros(num_slots, dtype=bool)
    runs: list[int] = []  # lengths of the runs of one document or of padding
    at = 0
    for first, count, padding in pieces:
        end = at + count
        if min(first, count, padding) < 0 or first + count > len(bin) or end > num_slots:
            raise ValueError(f"piece {first, count, padding} at slot {at} of {num_slots}")
        if count:
            tokens[at:end] = bin[first : first + count]
            counts[at:end] = labels_count[first : first + count]
            filled[at:end] = True
            runs.append(count)
        if padding := min(padding, num_slots - end):
            runs.append(padding)
        at = end + padding
    if at < num_slots:
        runs.append(num_slots - at)
    ids = np.repeat(np.arange(len(runs), dtype=np.int32), runs)
    starts = np.cumsum([0, *runs[:-1]])
    positions = np.arange(num_slots) - starts[ids]
    if attend_across:
        ids = np.where(filled, 0, ids + 1).astype(np.int32)
        positions = np.arange(num_slots)
    counts[1:] &= filled[:-1] & (ids[1:] == ids[:-1])
    return tokens[:-1], tokens[1:], counts[1:], ids[:-1], positions[:-1]
