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

from megatron_math.native import reference_index_writer
from megatron_math.native.index_writer import (
    IndexWriter,
    frame_documents,
    frame_roles,
    token_dtype,
)
from megatron_math.native.output_file import OutputFile
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


def test_a_kept_writer_is_continued(tmp_path: Path) -> None:
    """What follows the known documents is cut off, whatever it is, finished or not."""
    documents = documents_of(500, count=90)
    whole = ReferenceIndexWriter(tmp_path / "whole", 500)
    whole.add_documents(*flat(documents, whole.dtype))
    whole.finish()
    known = sum(map(len, documents[:40]))
    for name, count, completes in (("a", 40, False), ("b", 70, False), ("c", 40, True)):
        with IndexWriter(tmp_path / name, 500) as writer:
            writer.add_documents(*flat(documents[:count], writer.dtype))
            writer.flush()
            writer.sync_data()
            writer.keep()
            if completes:
                writer.complete()
        partials = sorted(path.name for path in tmp_path.glob(f"{name}.*"))
        assert partials == [f"{name}.bin.partial", f"{name}.idx.partial"]
        with IndexWriter(tmp_path / name, 500, after=(40, known)) as writer:
            assert (writer.num_documents, writer.num_tokens) == (40, known)
            writer.add_documents(*flat(documents[40:], writer.dtype))
            writer.finish()
        assert pair(tmp_path / name) == pair(tmp_path / "whole")


@pytest.mark.parametrize(
    ("after", "vocabulary_size", "error", "message"),
    [
        ((5, 12), 500, OSError, "holds 24 bytes, but|holds 50 bytes, but 54 were written before"),
        ((4, 11), 500, RuntimeError, "the lengths account for 24 bytes .* holds 22"),
        ((4, 12), 70_000, (OSError, ValueError), "24 bytes, but 48|is not the beginning of an ind"),
        ((2**62, 0), 500, ValueError, "an index cannot have"),
    ],
)
def test_files_that_are_not_what_was_kept_are_refused(
    tmp_path: Path,
    after: tuple[int, int],
    vocabulary_size: int,
    error: type[Exception],
    message: str,
) -> None:
    with IndexWriter(tmp_path / "x", 500) as writer:
        writer.add_documents(*flat([[1, 2, 3]] * 4, writer.dtype))
        writer.flush()
        writer.keep()
    with pytest.raises(error, match=message):
        IndexWriter(tmp_path / "x", vocabulary_size, after=after)
    assert (tmp_path / "x.idx.partial").is_file()  # still there for whoever knows better


def test_there_is_nothing_to_continue(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot go on with it"):
        IndexWriter(tmp_path / "x", 500, after=(1, 1))
    assert not list(tmp_path.iterdir())


@settings(max_examples=100, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8),
    bos_id=st.sampled_from([None, 98]),
    eod_id=st.sampled_from([None, 99]),
    dtype=st.sampled_from([np.uint16, np.int32]),
)
def test_framing_is_its_twin(
    documents: list[list[int]], bos_id: int | None, eod_id: int | None, dtype: type
) -> None:
    tokens, lengths = flat(documents, np.dtype(np.int32))
    ours, twins = (
        frame(tokens, lengths, bos_id, eod_id, np.dtype(dtype))
        for frame in (frame_documents, reference_index_writer.frame_documents)
    )
    for one, other in zip(ours, twins, strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    roles = (tokens % 4).astype(np.uint8)
    shape = {"has_bos": bos_id is not None, "has_eod": eod_id is not None}
    one, other = (
        frame(roles, lengths, **shape, opening=0, lonely=3)
        for frame in (frame_roles, reference_index_writer.frame_roles)
    )
    assert one.tolist() == other.tolist()
    assert len(one) == len(ours[0])


def test_framing_refuses_what_does_not_fit() -> None:
    int32, uint16 = np.dtype(np.int32), np.dtype(np.uint16)
    tokens, lengths = np.array([1, 70_000], np.int32), np.array([1, 1], np.int32)
    frame_documents(tokens, lengths, None, None, int32)
    with pytest.raises(ValueError, match="document 1 holds the ids 0 to 70000; 0 to 65535"):
        frame_documents(tokens, lengths, None, None, uint16)
    with pytest.raises(ValueError, match="BOS -1 or EOD 65536 is above 65535"):
        frame_documents(tokens[:1], lengths[:1], None, 65536, uint16)
    with pytest.raises(ValueError, match="2 documents sum to 2, but 1 tokens"):
        frame_documents(tokens[:1], lengths, None, 9, int32)
    with pytest.raises(ValueError, match=r"lengths\[0\] is -1"):
        frame_documents(tokens, np.array([-1, 3], np.int32), None, 9, int32)
    with pytest.raises(ValueError, match="2 documents sum to 2, but 1 tokens"):
        frame_roles(np.zeros(1, np.uint8), lengths, True, True, opening=0, lonely=0)


def test_an_output_file_goes_on_and_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with OutputFile(path) as file:
        file.append(b"0123456789" * 300_000)  # beyond its buffer
        file.append(np.arange(3, dtype=np.uint8))
        file.flush()
        file.overwrite(b"AB", 4)
        file.keep()
        assert file.num_bytes == 3_000_003
        with pytest.raises(BlockingIOError, match="another process is writing"):
            OutputFile(path)
    with OutputFile(path, 12) as file:
        file.append(memoryview(b"end"))
        file.sync()
        assert file.partial_path.read_bytes() == b"0123AB678901end"
    assert file.partial_path.is_file()
    with OutputFile(path) as file:  # afresh, and not kept
        file.append(b"x")
    assert not file.partial_path.exists()
    with pytest.raises(OSError, match="the file holds 0 bytes, but 5 were written before"):
        (tmp_path / "x.partial").touch()
        OutputFile(path, 5)
