"""Rows of a batch, on tokens that name their own place (0..n): labels, masks, ids, positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_streams import plan_stream, read_stream
from written_indexes import counting_documents, write_index

from megatron_math.dataset.batch import Batch, Reading, read_rows, real_tokens
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.stream import Layout, Piece, StreamSettings
from megatron_math.native.rows import Rows

PAD = 65_000


def read(index, layout, reading):
    num_rows = len(layout.starts) - 1
    rows = Rows.empty(num_rows, reading.sequence_length)
    read_rows(index, layout, reading, into=rows)
    return Batch.of(rows, np.zeros(num_rows, dtype=np.int32))


class Row:
    """The only row of a batch: row.tokens_S is batch.tokens_BS[0]."""

    def __init__(self, batch):
        self._batch = batch

    def __getattr__(self, name):
        return getattr(self._batch, name.removesuffix("_S") + "_BS")[0]


def row_of(tmp_path, lengths, pieces, sequence_length, roles=None, **reading):
    documents = counting_documents(lengths)
    index = IndexedDocuments(write_index(tmp_path / "a", documents, roles=roles))
    layout = Layout.of([np.array(pieces, dtype=np.int64)])
    return Row(read(index, layout, Reading(sequence_length, PAD, **reading)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_every_integer_that_core_writes_is_read(tmp_path, dtype):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=dtype)
    for document in ([5, 6, 7], [], [100, 2]):
        builder.add_document(document, [len(document)])
    builder.finalize(str(tmp_path / "a.idx"))
    layout = Layout.of([np.array([Piece(2, 0, 2, 0), Piece(0, 1, 2, 0)], dtype=np.int64)])
    batch = read(IndexedDocuments(tmp_path / "a"), layout, Reading(5, PAD))
    assert batch.tokens_BS.tolist() == [[100, 2, 6, 7, PAD]]


def test_a_row_by_hand(tmp_path):
    """Documents 0..4 and 5..7; the second half of the first, the second, one slot of padding."""
    pieces = [Piece(0, 2, 3, 1), Piece(1, 0, 3, 1)]
    row = row_of(tmp_path, [5, 3], pieces, 8)
    assert row.tokens_S.tolist() == [2, 3, 4, PAD, 5, 6, 7, PAD]
    assert row.labels_S.tolist() == [3, 4, PAD, 5, 6, 7, PAD, PAD]
    assert row.loss_mask_S.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert row.document_ids_S.tolist() == [0, 0, 0, 1, 2, 2, 2, 3]
    assert row.position_ids_S.tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    assert row.loss_mask_S.dtype == np.float32
    assert row.document_ids_S.dtype == np.int32
    two = Layout.of([np.array(pieces, dtype=np.int64), np.empty((0, 5), dtype=np.int64)])
    assert real_tokens(two, 8).astype(int).tolist() == [[1, 1, 1, 0, 1, 1, 1, 0], [0] * 8]


def test_the_label_behind_the_last_slot(tmp_path):
    """It counts when the document goes on there, and not when another begins."""
    goes_on = row_of(tmp_path, [5, 3], [Piece(0, 0, 5, 0)], 4)
    assert (goes_on.labels_S.tolist(), goes_on.loss_mask_S.tolist()) == ([1, 2, 3, 4], [1] * 4)
    begins = row_of(tmp_path, [5, 3], [Piece(0, 1, 4, 0), Piece(1, 0, 1, 0)], 4)
    assert begins.labels_S.tolist() == [2, 3, 4, 5]
    assert begins.loss_mask_S.tolist() == [1, 1, 1, 0]


def test_attend_across_joins_documents_and_not_padding(tmp_path):
    pieces = [Piece(0, 2, 3, 1), Piece(1, 0, 3, 0)]
    row = row_of(tmp_path, [5, 3], pieces, 8, attend_across=True)
    assert row.document_ids_S[[0, 1, 2, 4, 5, 6]].tolist() == [0] * 6
    assert len({0, row.document_ids_S[3], row.document_ids_S[7]}) == 3
    assert row.position_ids_S.tolist() == list(range(8))
    assert row.loss_mask_S.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    joined = row_of(tmp_path, [5, 3], [Piece(0, 0, 5, 0), Piece(1, 0, 3, 0)], 8,
                    attend_across=True)  # fmt: skip
    assert joined.loss_mask_S.tolist() == [1] * 7 + [0]


def test_the_role_of_the_label_decides(tmp_path):
    """Prompt, prompt, solution, solution, tool output: the last prompt token predicts solution."""
    roles = [[0, 0, 1, 1, 2], [0, 1, 1]]
    pieces = [Piece(0, 0, 5, 0), Piece(1, 0, 3, 0)]
    row = row_of(tmp_path, [5, 3], pieces, 8, roles, loss_roles=("solution",))
    assert row.loss_mask_S.tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    row = row_of(tmp_path, [5, 3], pieces, 8, roles, loss_roles=("solution", "tool_output"))
    assert row.loss_mask_S.tolist() == [0, 1, 1, 1, 0, 1, 1, 0]
    row = row_of(tmp_path, [5, 3], pieces, 8, roles, loss_roles=("prompt",))
    assert row.loss_mask_S.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_a_document_that_follows_itself_is_another_document(tmp_path):
    """The last of an epoch may be the first of the next: attention must not join them."""
    row = row_of(tmp_path, [3], [Piece(0, 0, 3, 0), Piece(0, 0, 3, 0)], 6)
    assert row.document_ids_S.tolist() == [0, 0, 0, 1, 1, 1]
    assert row.loss_mask_S.tolist() == [1, 1, 0, 1, 1, 0]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    pack=st.sampled_from(["concat", "whole"]),
    align=st.integers(1, 3),
    factor=st.integers(1, 7),
    epochs=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_token_but_the_first_of_its_document_is_a_label_once_an_epoch(
    tmp_path_factory, lengths, pack, align, factor, epochs
):
    """Token conservation, with every row's invariants on the way."""
    prefix = write_index(tmp_path_factory.mktemp("i") / "a", counting_documents(lengths))
    index = IndexedDocuments(prefix)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    place_of = np.concatenate([np.arange(length) for length in lengths])
    length = align * factor
    planned = plan_stream(StreamSettings(length, pack, align), lengths, end_epoch=epochs)
    stream, num_samples = read_stream(planned)
    times = np.zeros(sum(lengths), dtype=int)
    layout = stream.layouts(range(num_samples))
    batch = read(index, layout, Reading(length, PAD))
    assert (real_tokens(layout, length) == (batch.tokens_BS != PAD)).all()
    for sample in range(num_samples):
        row = Row(Batch(*(getattr(batch, name)[sample : sample + 1] for name in vars(batch))))
        counted = row.loss_mask_S == 1
        np.add.at(times, row.labels_S[counted], 1)
        assert (row.labels_S[counted] == row.tokens_S[counted] + 1).all()
        assert (row.tokens_S[1:] == row.labels_S[:-1]).all()
        real = row.tokens_S != PAD
        assert not counted[~real].any()
        runs = np.split(np.arange(length), np.flatnonzero(np.diff(row.document_ids_S)) + 1)
        assert len(runs) == len(set(row.document_ids_S.tolist()))
        for run in runs:
            assert row.position_ids_S[run].tolist() == list(range(len(run)))
            assert len(set(real[run])) == 1
            if real[run[0]]:
                assert len(set(document_of[row.tokens_S[run]])) == 1
    assert (times == np.where(place_of > 0, epochs, 0)).all()
