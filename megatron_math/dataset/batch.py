"""Samples as arrays: tokens, labels, which labels count, which tokens may see each other.

B samples of a batch, S sequence length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.dataset.stream import Piece


@dataclass(frozen=True)
class Batch:
    """labels_BS[b, s] is the token after tokens_BS[b, s]; it counts where loss_mask_BS is 1.

    Attention stays inside equal document_ids_BS (a run of padding has its own id), and positions
    begin at 0 with every document. source_B: number of the source in the plan's list.
    """

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]
    loss_mask_BS: npt.NDArray[np.float32]
    document_ids_BS: npt.NDArray[np.int32]
    position_ids_BS: npt.NDArray[np.int64]
    source_B: npt.NDArray[np.int32]

    @classmethod
    def stack(cls, rows: Sequence["Row"], sources: Sequence[int]) -> Self:
        return cls(
            np.stack([row.tokens_S for row in rows]),
            np.stack([row.labels_S for row in rows]),
            np.stack([row.loss_mask_S for row in rows]),
            np.stack([row.document_ids_S for row in rows]),
            np.stack([row.position_ids_S for row in rows]),
            np.array(sources, dtype=np.int32),
        )


@dataclass(frozen=True)
class Row:
    """One sample of a batch."""

    tokens_S: npt.NDArray[np.int64]
    labels_S: npt.NDArray[np.int64]
    loss_mask_S: npt.NDArray[np.float32]
    document_ids_S: npt.NDArray[np.int32]
    position_ids_S: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """How a source's samples are read: `attend` inside documents or across them, `loss` roles."""

    sequence_length: int
    pad_id: int
    attend_across: bool = False
    loss_roles: tuple[str, ...] | None = None  # None: every token counts


def read_row(index: IndexedDocuments, pieces: Sequence[Piece], reading: Reading) -> Row:
    """Lay the pieces out on S + 1 slots, the last of which is only a label; the rest is padding."""
    num_slots = reading.sequence_length + 1
    tokens = np.full(num_slots, reading.pad_id, dtype=np.int64)
    counts = np.zeros(num_slots, dtype=bool)  # may this token be a label?
    filled = np.zeros(num_slots, dtype=bool)
    runs: list[int] = []  # lengths of the runs of one document or of padding
    at = 0
    for piece in pieces:
        end = at + piece.tokens
        if piece.tokens:
            tokens[at:end] = index.tokens(piece.document, piece.start, piece.tokens)
            counts[at:end] = _count(index, piece, reading.loss_roles)
            filled[at:end] = True
            runs.append(piece.tokens)
        if padding := min(piece.padding, num_slots - end):
            runs.append(padding)
        at = end + padding
    if at < num_slots:
        runs.append(num_slots - at)
    ids = np.repeat(np.arange(len(runs), dtype=np.int32), runs)
    starts = np.cumsum([0, *runs[:-1]])
    positions = np.arange(num_slots) - starts[ids]
    if reading.attend_across:
        ids = np.where(filled, 0, ids + 1).astype(np.int32)
        positions = np.arange(num_slots)
    counts[1:] &= filled[:-1] & (ids[1:] == ids[:-1])
    return Row(
        tokens[:-1],
        tokens[1:],
        counts[1:].astype(np.float32),
        ids[:-1],
        positions[:-1].astype(np.int64),
    )


def _count(
    index: IndexedDocuments, piece: Piece, loss_roles: tuple[str, ...] | None
) -> npt.NDArray[np.bool_] | bool:
    if loss_roles is None:
        return True
    roles = index.roles(piece.document, piece.start, piece.tokens)
    return np.isin(roles, [ROLES[name] for name in loss_roles])
