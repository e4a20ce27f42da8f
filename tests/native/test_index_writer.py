"""The C++ index writer: equal to core's builder and to its twin, and never half a file."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_math.native.index_writer import IndexWriter, token_dtype
from megatron_math.native.reference_index_writer import ReferenceIndexWriter


def pair(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def flat(documents: list[list[int]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for document in documents for token in document], dtype=dtype)
    return tokens, np.array([len(document) for document in documents], dtype=np.int32)


def documents_of(vocabulary_size: int, seed: int = 0, count: int = 300) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 40, count)
    return [rng.integers(0, vocabulary_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("vocabulary_size", [1, 256, 65499, 65500, 65536, 128256, 2**31])
def test_same_bytes_as_megatron_core(tmp_path: Path, vocabulary_size: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    documents = documents_of(vocabulary_size)
    core_dtype = DType.optimal_dtype(vocabulary_size)
    builder = IndexedDatasetBuilder(str(tmp_path / "core.bin"), dtype=core_dtype)
    for document in documents:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(str(tmp_path / "core.idx"))

    writer = IndexWriter(tmp_path / "ours", vocabulary_size)
    assert writer.dtype == core_dtype
    writer.add_documents(*flat(documents[:7], writer.dtype))
    writer.add_documents(*flat(documents[7:], writer.dtype))
    assert writer.num_documents == len(documents)
    writer.finish()

    assert pair(tmp_path / "ours") == pair(tmp_path / "core")
    dataset = IndexedDataset(str(tmp_path / "ours"))
    assert [dataset[i].tolist() for i in range(len(dataset))] == documents


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    vocabulary_size=st.sampled_from([2, 65499, 65500, 200_000]),
    blocks=st.lists(st.lists(st.lists(st.integers(0, 2**31), max_size=6), max_size=6), max_size=6),
)
def test_same_bytes_as_the_twin(
    tmp_path: Path, vocabulary_size: int, blocks: list[list[list[int]]]
) -> None:
    writer = IndexWriter(tmp_path / "native", vocabulary_size)
    twin = ReferenceIndexWriter(tmp_path / "twin", vocabulary_size)
    for block in blocks:
        kept = [[token % vocabulary_size for token in document] for document in block]
        for each in (writer, twin):
            each.add_documents(*flat(kept, writer.dtype))
    writer.finish()
    twin.finish()
    assert pair(tmp_path / "native") == pair(tmp_path / "twin")


def test_large_blocks_pass_the_buffer_and_the_finish_blocks(tmp_path: Path) -> None:
    """More documents than one block of finish() (65,536) and more tokens than the 1 MiB buffer."""
    lengths = np.tile(np.array([3, 0, 9], np.int32), 50_001)
    tokens = (np.arange(lengths.sum()) % 65499).astype(np.uint16)
    half = len(lengths) // 2
    for cls, name in ((IndexWriter, "native"), (ReferenceIndexWriter, "twin")):
        writer = cls(tmp_path / name, 65499)
        cut = int(lengths[:half].sum())
        writer.add_documents(tokens[:cut], lengths[:half])
        writer.add_documents(tokens[cut:], lengths[half:])
        writer.finish()
    assert pair(tmp_path / "native") == pair(tmp_path / "twin")


@pytest.mark.parametrize("cls", [IndexWriter, ReferenceIndexWriter])
@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (np.zeros(3, np.uint16), np.array([2], np.int32)),
        (np.zeros(3, np.uint16), np.array([4], np.int32)),
        (np.zeros(3, np.uint16), np.array([5, -2], np.int32)),
        (np.zeros(3, np.int32), np.array([3], np.int32)),
        (np.zeros(3, np.uint16), np.array([3], np.int64)),
        (np.zeros((3, 1), np.uint16), np.array([3], np.int32)),
        (np.array([0, 1, 100], np.uint16), np.array([3], np.int32)),
    ],
    ids=["short", "long", "negative", "token type", "length type", "axes", "id"],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, cls: type, tokens: np.ndarray, lengths: np.ndarray
) -> None:
    writer = cls(tmp_path / "x", 100)
    writer.add_documents(np.array([7, 8], np.uint16), np.array([2], np.int32))
    with pytest.raises(ValueError, match=r"."):
        writer.add_documents(tokens, lengths)
    writer.finish()
    reference = ReferenceIndexWriter(tmp_path / "reference", 100)
    reference.add_documents(np.array([7, 8], np.uint16), np.array([2], np.int32))
    reference.finish()
    assert pair(tmp_path / "x") == pair(tmp_path / "reference")


def test_errors_carry_the_numbers(tmp_path: Path) -> None:
    writer = IndexWriter(tmp_path / "x", 70_000)
    with pytest.raises(ValueError, match=r"2 documents sum to 5, but 4 tokens"):
        writer.add_documents(np.zeros(4, np.int32), np.array([2, 3], np.int32))
    with pytest.raises(ValueError, match=r"tokens\[2\] is 70000; ids .* 0 to 69999"):
        writer.add_documents(np.array([1, 2, 70_000], np.int32), np.array([3], np.int32))
    with pytest.raises(ValueError, match=r"tokens\[1\] is -1"):
        writer.add_documents(np.array([1, -1], np.int32), np.array([2], np.int32))
    with pytest.raises(ValueError, match=r"not contiguous"):
        writer.add_documents(np.zeros(6, np.int32)[::2], np.array([3], np.int32))
    with pytest.raises(ValueError, match=r"vocabulary_size .* found 0"):
        IndexWriter(tmp_path / "y", 0)


def test_nothing_under_the_final_name_before_finish(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"old bin")
    (tmp_path / "x.idx").write_bytes(b"old idx")
    with IndexWriter(tmp_path / "x", 100) as writer:
        writer.add_documents(np.zeros(2_000_000, np.uint16), np.array([2_000_000], np.int32))
        assert pair(tmp_path / "x") == (b"old bin", b"old idx")
        assert (tmp_path / "x.bin.partial").stat().st_size == 4_000_000
    # Left without finish(): the temporaries are gone, the old pair is as it was.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.idx"]
    assert pair(tmp_path / "x") == (b"old bin", b"old idx")
    with pytest.raises(RuntimeError, match="was abandoned"):
        writer.finish()


def test_a_finished_writer_stays_finished(tmp_path: Path) -> None:
    with IndexWriter(tmp_path / "x", 100) as writer:
        writer.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.idx"]
    with pytest.raises(RuntimeError, match="is finished"):
        writer.add_documents(np.zeros(0, np.uint16), np.zeros(0, np.int32))


def test_two_writers_of_one_prefix(tmp_path: Path) -> None:
    with IndexWriter(tmp_path / "x", 100) as first:
        first.add_documents(np.ones(1, np.uint16), np.ones(1, np.int32))
        with pytest.raises(BlockingIOError, match="another process is writing"):
            IndexWriter(tmp_path / "x", 100)
        first.finish()
    assert (tmp_path / "x.bin").read_bytes() == b"\x01\x00"


def test_leftovers_of_a_killed_writer_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "x.bin.partial").write_bytes(b"garbage that is longer than the result")
    (tmp_path / "x.idx.partial").write_bytes(b"g" * 500)
    with IndexWriter(tmp_path / "x", 100) as writer:
        writer.add_documents(np.ones(1, np.uint16), np.ones(1, np.int32))
        writer.finish()
    assert (tmp_path / "x.bin").read_bytes() == b"\x01\x00"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.idx"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot create the file") as caught:
        IndexWriter(tmp_path / "missing" / "x", 100)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "missing" / "x.bin.partial")


FULL_DISK = """
import resource, sys
import numpy as np
from megatron_math.native.index_writer import IndexWriter
prefix, limit, num_documents = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with IndexWriter(prefix, 100) as writer:
    try:
        writer.add_documents(np.ones(num_documents, np.uint16), np.ones(num_documents, np.int32))
        writer.finish()
    except OSError as error:
        print(error.errno, error.filename, error, sep="|")
        sys.exit(7)
"""


@pytest.mark.parametrize("num_documents", [1_500_000, 40_000], ids=["in add", "in finish"])
def test_a_full_disk_leaves_the_old_pair(tmp_path: Path, num_documents: int) -> None:
    """RLIMIT_FSIZE stands in for the disk: EFBIG where a real one says ENOSPC."""
    with IndexWriter(tmp_path / "x", 100) as writer:
        writer.add_documents(np.full(4, 9, np.uint16), np.array([4], np.int32))
        writer.finish()
    before = pair(tmp_path / "x")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "x"), "300000", str(num_documents)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 7, result.stderr
    code, filename, message = result.stdout.strip().split("|")
    assert int(code) == errno.EFBIG
    assert filename.startswith(str(tmp_path / "x."))
    assert "bytes at offset" in message
    assert "File too large" in message
    assert pair(tmp_path / "x") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.idx"]
    # Control: without the limit the same program succeeds and the pair changes.
    command[4] = str(resource.RLIM_INFINITY)
    subprocess.run(command, check=True)
    assert pair(tmp_path / "x") != before


def test_dtype_boundary_is_cores() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32
