"""Samples as arrays: tokens, labels, which labels count, which tokens may see each other.

B samples of a batch, S sequence length, P pieces.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.dataset.stream import Layout
from megatron_math.native import rows
from megatron_math.native.rows import Rows


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
    def of(cls, rows: Rows, source_B: npt.NDArray[np.int32]) -> "Batch":
        return cls(*rows, source_B)


@dataclass(frozen=True)
class Reading:
    """How a source's samples are read: `attend` inside documents or across them, `loss` roles."""

    sequence_length: int
    pad_id: int
    attend_across: bool = False
    loss_roles: tuple[str, ...] | None = None  # None: every token counts


def real_tokens(layout: Layout, sequence_length: int) -> npt.NDArray[np.bool_]:
    """Of each sample [B, S], which inputs are tokens of a document and not padding."""
    tokens_P, padding_P = layout.pieces_P5[:, 2], layout.pieces_P5[:, 3]
    ends_P = (tokens_P + padding_P).cumsum()  # in slots, over all samples
    firsts_P = ends_P - tokens_P - padding_P
    real_BS = np.zeros((len(layout.starts) - 1, sequence_length), dtype=bool)
    for real_S, (first, end) in zip(real_BS, pairwise(layout.starts), strict=True):
        origin = firsts_P[first] if first < end else 0
        for piece in range(first, end):
            begin = firsts_P[piece] - origin
            real_S[begin : begin + tokens_P[piece]] = True
    return real_BS


def read_rows(
    index: IndexedDocuments,
    layout: Layout,
    reading: Reading,
    *,
    into: Rows,
    row_numbers: npt.NDArray[np.int64] | None = None,
) -> None:
    """Lay samples out on S + 1 slots each, the last only a label; the rest is padding.

    A label counts when it goes on in its input's document and its role is wanted. into,
    row_numbers: the batch and the rows in it to write; default: all, in order.
    """
    pieces_P3 = index.bin_pieces(layout.pieces_P5)
    asked = pieces_P3, layout.starts, reading.sequence_length, reading.pad_id, reading.attend_across
    ids = index.ids
    if reading.loss_roles is not None:
        wanted = np.zeros(256, dtype=bool)
        wanted[[ROLES[name] for name in reading.loss_roles]] = True
        bin_part, roles, begins = index.read_runs(pieces_P3[:, 0], pieces_P3[:, 1])
        pieces_P3[:, 0] = begins
        rows.read_rows(bin_part, *asked, roles, wanted, into=into, row_numbers=row_numbers)
    elif ids.is_small:
        rows.read_rows(ids.array, *asked, into=into, row_numbers=row_numbers)
    else:
        rows.read_file_rows(
            ids.open(), ids.path, ids.dtype, ids.count, *asked, into=into, row_numbers=row_numbers
        )
