"""Typed doors to csrc/order.cpp: in which order documents, samples and sources come.

The readable twins, equal to the last element, are in `reference_order`; that of `concat_pieces` is
`dataset.cuts.ConcatStream.pieces`. All sizes are 64-bit, the interpreter lock is released, and
unfit values raise ValueError with the numbers in it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_math import _native  # type: ignore[attr-defined]

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


def permute(key: int, num_items: int, first: int, count: int) -> Int64Array:
    """p(first) .. p(first + count - 1) of the permutation of 0..num_items-1 that `key` names.

    Computed point by point: a generalised Feistel network (Black and Rogaway 2002) with
    cycle walking, for num_items in [1, 2^62]; see csrc/keyed_permutation.h.
    """
    return _native.permute(key, num_items, first, count)


def epoch_documents(
    lengths: Int32Array,
    split_key: int,
    epoch_key: int,
    num_held_out: int,
    first: int,
    count: int,
) -> tuple[Int64Array, Int64Array]:
    """(documents [count], their lengths [count]) at positions first.. of an epoch.

    lengths: tokens of every document of the index, as its .idx has them (any address).
    Position p is document permute(split_key)(num_held_out + permute(epoch_key)(p)): the split's
    first `num_held_out` positions are in no epoch. Empty documents come like others.
    """
    return _native.epoch_documents(lengths, split_key, epoch_key, num_held_out, first, count)


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
    """[num_segments, 2]: tokens and slots of an epoch's segments from `first_segment` on.

    Segment s is the positions s * segment_documents and on, the last one may be shorter. Slots are
    the lengths, each rounded up to a multiple of `align`. Positions as in `epoch_documents`.
    """
    return _native.segment_totals(
        lengths,
        split_key,
        epoch_key,
        num_held_out,
        align,
        segment_documents,
        first_segment,
        num_segments,
    )


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
    """[segments of the epoch, 2]: tokens and slots that these documents add to each segment.

    lengths: tokens of the index's documents from `first_document` on, of `num_documents`. Summed
    over parts that are all documents together, this is `segment_totals` of a whole epoch, with the
    lengths read in the order of the file: several times faster where they do not fit the cache, and
    no scattered reads where they lie on a slow disk.
    """
    return _native.document_totals(
        lengths,
        first_document,
        num_documents,
        split_key,
        epoch_key,
        num_held_out,
        align,
        segment_documents,
    )


def concat_pieces(
    lengths: Int32Array,
    split_key: int,
    num_held_out: int,
    epoch_keys: npt.NDArray[np.uint64],
    first_epoch: int,
    start_position: int,
    segment_documents: int,
    align: int,
    slots_before: Int64Array,
    sequence_length: int,
    samples: Int64Array,
) -> tuple[Int64Array, Int64Array]:
    """What samples of documents end to end hold: (pieces [P, 5], starts [samples + 1]).

    A piece is (document, start, tokens, slots of padding behind them, epoch); sample i has the
    pieces starts[i] .. starts[i + 1] - 1, for sequence_length + 1 slots or to the end of the rows.
    Positions as in `epoch_documents`. The stream begins at `start_position` of epoch
    `first_epoch`; epoch_keys are of that one and the following. slots_before [rows + 1]: what lies
    before each of its segments; the samples begin in these rows.
    """
    return _native.concat_pieces(
        lengths,
        split_key,
        num_held_out,
        epoch_keys,
        first_epoch,
        start_position,
        segment_documents,
        align,
        slots_before,
        sequence_length,
        samples,
    )


def pack_index(
    lengths: Int64Array, sequence_length: int, align: int, window: int
) -> tuple[Int64Array, Int64Array]:
    """Best fit of whole documents into sequences, at most `window` of them open at a time.

    lengths: tokens of each document in the epoch's order. A document takes the fullest open bin
    it fits (its length rounded up to `align`); where none fits and all are open, the fullest is
    closed. A document longer than the sequence is cut into sequences and a tail.
    Returns (pieces [n, 3]: position in the order, start inside the document, tokens;
    starts [packs + 1]: where each pack's pieces begin).
    """
    return _native.pack_index(lengths, sequence_length, align, window)


def locate(
    order_N: npt.NDArray[np.unsignedinteger],
    counts_before: Int64Array,
    block_samples: int,
    samples: Int64Array,
) -> tuple[Int32Array, Int64Array]:
    """(source of each sample, its number among that source's samples).

    order_N: sources of all samples, uint16 or uint32. counts_before [blocks, sources]: samples of
    each source before every `block_samples` samples. IndexError for a sample that is not there.
    """
    return _native.locate(order_N, counts_before, block_samples, samples)


class BlendOrder:
    """Which source each sample comes from, within `sequence_length` tokens of every target.

    Tijdeman's chairman assignment (1980) in tokens; rule and proof of the bound are in
    csrc/blend_order.h. A sample costs about the same for ten sources and for ten thousand.

    starts [bends]: tokens of the whole mix at which the rates change, from 0. bases
    [bends, sources]: tokens each source should have given there. shares [sources]: integer rates
    behind the last bend; 0 ends a source. given [sources]: tokens that each source has given
    before; the order goes on from there. most_scanned: up to so many sources are looked through
    one by one, more stand in calendars; it changes the speed alone.

    Use: feed every source that waits, choose, and so on, until nothing waits and nothing comes.
    The order does not depend on how much is fed or chosen at a time. One thread at a time.
    """

    def __init__(
        self,
        starts: Int64Array,
        bases: Int64Array,
        shares: Int64Array,
        sequence_length: int,
        given: Int64Array,
        *,
        most_scanned: int | None = None,
    ) -> None:
        self._native = _native.BlendOrder(
            starts, bases, shares, sequence_length, given, most_scanned
        )

    def waiting(self) -> list[int]:
        """Sources whose next sample's size is not known; nothing is chosen before they are fed."""
        return self._native.waiting()

    def feed(self, source: int, sizes: Int64Array, more: bool) -> None:
        """The next sizes (tokens without padding) of a source that waits, and whether others will
        follow. They are read in place: np.broadcast_to(length, count) is as good as an array."""
        self._native.feed(source, sizes, more)

    def choose(
        self,
        out: npt.NDArray[np.integer],
        max_tokens: int,
        samples: Int64Array | None = None,
    ) -> int:
        """Write source numbers into `out` (uint8, uint16, uint32 or int32; it may be a memory map)
        until it is full, the tokens of all samples since the start reach max_tokens, all sources
        have ended, or one waits. samples: as long as `out`; takes the number of each sample among
        all that its source was fed. Returns how many were written."""
        return self._native.choose(out, max_tokens, samples)

    def given(self) -> Int64Array:
        """Tokens that each source has given."""
        return self._native.given()


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
    """`BlendOrder` in one call: (sources of the next samples, `given` afterwards).

    sizes: of each source's next samples as far as known; more: whether others follow. The order
    ends at the sample that reaches max_tokens, at the end of all sources, or before the first
    choice that needs an unknown size.
    """
    if not len(sizes) == len(more) == len(given) == len(shares):
        raise ValueError(
            f"{len(shares)} shares do not go with {len(sizes)} sizes, {len(more)} more and "
            f"{len(given)} given"
        )
    before = np.array(given, dtype=np.int64)
    order = BlendOrder(starts, bases, shares, sequence_length, before)
    for source, (tokens, follow) in enumerate(zip(sizes, more, strict=True)):
        order.feed(source, tokens, bool(follow))
    pieces = [np.empty(0, dtype=np.int32)]
    while True:
        piece = np.empty(1 << 16, dtype=np.int32)
        count = order.choose(piece, max_tokens)
        if count == 0:
            return np.concatenate(pieces), order.given()
        pieces.append(piece[:count])
