"""Large parts are read place by place, small ones mapped: the same integers either way."""

import os

import numpy as np
import pytest
from written_indexes import counting_documents, ragged_lengths, write_index

from megatron_math.base.errors import UserError
from megatron_math.dataset import file_array
from megatron_math.dataset.batch import Reading, read_rows
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.split import HeldOutOrder, Split, TrainingOrder
from megatron_math.dataset.stream import Layout, Piece
from megatron_math.native.rows import Rows


@pytest.fixture
def prefix(tmp_path):
    lengths = ragged_lengths(400)
    roles = [[place % 3 for place in range(length)] for length in lengths]
    return write_index(tmp_path / "a", counting_documents(lengths), roles=roles)


def everything(prefix):
    index = IndexedDocuments(prefix)
    split = Split(3, 400, 40)
    lengths = index.lengths_D
    pieces = [Piece(d, 1, int(lengths[d]) - 1, 2) for d in (7, 3, 399, 0)]
    layout = Layout.of([np.array(pieces[:2], dtype=np.int64), np.array(pieces[2:], dtype=np.int64)])
    rows = Rows.empty(2, 200)
    read_rows(index, layout, Reading(200, 69_999, loss_roles=("solution",)), into=rows)
    plain = Rows.empty(2, 200)
    read_rows(index, layout, Reading(200, 69_999), into=plain)
    training = TrainingOrder(index.lengths, split, seed=1, name="a").read(2, 50, 300)
    held_out = HeldOutOrder(index.lengths, split).read(0, 3, 30)
    return [*rows, *plain, *training, *held_out]


def read(index, document, tokens):
    layout = Layout.of([np.array([Piece(document, 0, tokens, 0)], dtype=np.int64)])
    read_rows(index, layout, Reading(200, 0), into=Rows.empty(1, 200))


def test_mapped_and_read_are_equal(prefix, monkeypatch):
    mapped = everything(prefix)
    monkeypatch.setattr(file_array, "MAPPED_BYTES", 16)
    maps = []
    original = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **k: maps.append(a) or original(*a, **k))
    scattered = everything(prefix)
    assert len(maps) == 1  # lengths_D of this test
    for one, other in zip(mapped, scattered, strict=True):
        assert one.dtype == other.dtype
        assert (one == other).all()
    monkeypatch.setattr(file_array, "SCATTERED", 8)  # many places of a large part are mapped again
    assert all((a == b).all() for a, b in zip(mapped, everything(prefix), strict=True))


def test_a_file_cut_under_a_reader_is_an_error_and_not_a_signal(prefix, monkeypatch):
    monkeypatch.setattr(file_array, "MAPPED_BYTES", 16)
    index = IndexedDocuments(prefix)
    length = int(index.lengths.take(np.array([399]))[0])
    read(index, 399, 2)
    os.truncate(index.bin_path, index.bin_path.stat().st_size - 4)
    with pytest.raises(OSError, match=r"a\.bin"):
        read(index, 399, length)


def test_a_file_replaced_in_use_is_not_read_on(prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(file_array, "MAPPED_BYTES", 16)
    monkeypatch.setattr(file_array, "FILES_KEPT_OPEN", 1)
    monkeypatch.setattr(file_array, "_open_files", file_array._OpenFiles())
    index = IndexedDocuments(prefix)
    read(index, 5, 2)
    write_index(tmp_path / "b", [[9] * int(n) for n in index.lengths_D])
    os.replace(tmp_path / "b.bin", index.bin_path)
    index.lengths.take(np.array([1]))  # the one file kept open is now the .idx
    with pytest.raises(UserError, match=r"a\.bin was replaced or rewritten"):
        read(index, 5, 2)
