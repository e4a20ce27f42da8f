"""Parts of a file: equal to the twin, and an OSError where a mapping would end the process."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.native import file_reads, order, reference_file_reads

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("f") / "x"
    path.write_bytes(CONTENT)
    with open(path, "rb") as file:
        yield file.fileno(), path


def int64(values):
    return np.array(values, dtype=np.int64)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_ranges_are_the_files_bytes(opened, ranges):
    begins, sizes = int64([b for b, _ in ranges]), int64([s for _, s in ranges])
    found = file_reads.read_ranges(*opened, begins, sizes)
    assert found.tobytes() == b"".join(CONTENT[b : b + s] for b, s in ranges)
    assert (found == reference_file_reads.read_ranges(*opened, begins, sizes)).all()


@pytest.mark.parametrize("module", [file_reads, reference_file_reads])
def test_behind_the_end_is_an_error_with_the_files_name(opened, module):
    with pytest.raises(OSError, match="x"):
        module.read_ranges(*opened, int64([0, 10_000]), int64([5, 300]))
    for begin, size in ((-1, 2), (3, -1)):
        with pytest.raises(ValueError, match="no part of a file"):
            module.read_ranges(*opened, int64([begin]), int64([size]))


def test_more_than_a_file_can_hold_and_unequal_lists_are_refused(opened):
    with pytest.raises(ValueError, match="no part of a file"):
        file_reads.read_ranges(*opened, int64([0]), int64([2**63 - 1]))
    with pytest.raises(ValueError, match="2 begins do not go with 1 sizes"):
        file_reads.read_ranges(*opened, int64([0, 1]), int64([1]))


def test_a_closed_file_is_an_error(opened):
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_reads.read_ranges(-1, opened[1], int64([0]), int64([1]))


@given(st.integers(1, 3000), st.data())
@settings(max_examples=100, deadline=None)
def test_positions_are_those_of_epoch_documents(num_documents, data):
    held_out = data.draw(st.integers(0, num_documents - 1))
    first = data.draw(st.integers(0, num_documents - held_out))
    count = data.draw(st.integers(0, num_documents - held_out - first))
    place = (5, 6, held_out, first, count)
    lengths = np.zeros(num_documents, dtype=np.int32)
    found = file_reads.epoch_positions(num_documents, *place)
    assert found.tolist() == order.epoch_documents(lengths, *place)[0].tolist()
    assert found.tolist() == reference_file_reads.epoch_positions(num_documents, *place).tolist()


def test_positions_outside_are_refused():
    with pytest.raises(ValueError, match="num_held_out must be in"):
        file_reads.epoch_positions(5, 1, 2, 5, 0, 1)
    with pytest.raises(ValueError, match="not all among"):
        file_reads.epoch_positions(5, 1, 2, 1, 3, 2)
