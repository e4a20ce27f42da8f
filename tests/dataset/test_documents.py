"""IndexedDocuments: reads what core writes, refuses what does not fit together."""

import struct

import numpy as np
import pytest
from written_indexes import counting_documents, write_index

from megatron_math.base.errors import UserError
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import probe, read_sidecar

DOCUMENTS = [[5, 6, 7], [8], [], [9, 10, 11, 12]]


def test_core_and_we_read_each_others_indexes(tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    for dtype in (np.uint16, np.int32):
        prefix = tmp_path / dtype.__name__
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
        for document in DOCUMENTS:
            builder.add_document(document, [len(document)])
        builder.finalize(f"{prefix}.idx")
        index = IndexedDocuments(prefix)
        assert index.dtype == dtype
        assert [index.document(i).tolist() for i in range(len(index))] == DOCUMENTS
        assert index.tokens(3, 1, 2).tolist() == [10, 11]
    ours = write_index(tmp_path / "ours", DOCUMENTS)
    read_by_core = IndexedDataset(str(ours))
    assert [read_by_core[i].tolist() for i in range(len(DOCUMENTS))] == DOCUMENTS


def test_a_document_of_several_sequences_is_several_documents(tmp_path):
    """Core's GPTDataset shuffles sequences, and so do we."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "s.bin"), dtype=np.int32)
    builder.add_document([1, 2, 3, 4, 5], [2, 3])
    builder.finalize(str(tmp_path / "s.idx"))
    index = IndexedDocuments(tmp_path / "s")
    assert [index.document(i).tolist() for i in range(len(index))] == [[1, 2], [3, 4, 5]]


def test_a_missing_index_is_named_with_a_hint(tmp_path):
    write_index(tmp_path / "web_text_document", DOCUMENTS)
    with pytest.raises(UserError, match=r"no file .*web\.idx; did you mean .*web_text_document"):
        IndexedDocuments(tmp_path / "web")


def damage(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("suffix", "offset", "data", "message"),
    [
        (".idx", 0, b"NOTMEGA", "is not a Megatron index"),
        (".idx", 9, struct.pack("<Q", 2), "version 2"),
        (".idx", 17, b"\x06", "dtype code 6"),
        (".idx", 18, struct.pack("<Q", 5), "5 sequences"),
        (".idx", 18, struct.pack("<Q", 2**63), "damaged"),
        (".idx", 34 + 12, struct.pack("<i", 5), "ends at byte 36, the .bin has 32 bytes"),
        (".idx", 34 + 16 + 24, struct.pack("<q", 12), "ends at byte 28"),
        (".bin", 32, b"\0", "33 bytes are no whole number"),
    ],
)
def test_damage_is_found_when_opening(tmp_path, suffix, offset, data, message):
    prefix = write_index(tmp_path / "a", DOCUMENTS)
    IndexedDocuments(prefix)
    damage(prefix.with_name("a" + suffix), offset, data)
    with pytest.raises(UserError, match=message):
        IndexedDocuments(prefix)


def test_truncation_at_every_byte_of_the_idx_is_found(tmp_path):
    prefix = write_index(tmp_path / "a", DOCUMENTS)
    path = prefix.with_name("a.idx")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            IndexedDocuments(prefix)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (34, struct.pack("<i", 4), "document 1 has .* from byte 12 on, .* ends at byte 16"),
        (34, struct.pack("<iii", -1, 5, 0), "document 0 has -1 tokens"),
        (
            34 + 4 * 4 + 8,
            struct.pack("<q", 4),
            "document 1 has .* from byte 4 on, .* ends at byte 12",
        ),
        (34 + 4 * 4, struct.pack("<q", 4), "document 0 has .* from byte 4 on"),
    ],
)
@pytest.mark.parametrize("together", [1, 2, 1 << 20])
def test_damage_inside_is_found_by_the_full_check(
    tmp_path, monkeypatch, offset, data, message, together
):
    """Opening reads the last document's place only, so that it costs nothing."""
    monkeypatch.setattr("megatron_math.dataset.documents.CHECKED_TOGETHER", together)
    prefix = write_index(tmp_path / "a", DOCUMENTS)
    assert IndexedDocuments(prefix).check_pointers() == 1  # an empty document
    damage(prefix.with_name("a.idx"), offset, data)
    with pytest.raises(UserError, match=message):
        IndexedDocuments(prefix).check_pointers()


def test_reading_outside_a_document_is_refused(tmp_path):
    index = IndexedDocuments(write_index(tmp_path / "a", DOCUMENTS))
    for arguments in ((0, 0, 4), (0, -1, 2), (1, 2, 1), (2, 0, 1)):
        with pytest.raises(IndexError):
            index.tokens(*arguments)


def test_roles_must_be_there_and_of_the_right_size(tmp_path):
    prefix = write_index(tmp_path / "a", [[1, 2], [3]])
    index = IndexedDocuments(prefix)
    with pytest.raises(UserError, match=r"math.*no file .*a\.roles"):
        index.require_roles("source 'math'")
    prefix.with_name("a.roles").write_bytes(bytes([0, 1]))
    with pytest.raises(UserError, match="has 2 bytes.* the 3 tokens"):
        index.require_roles("source 'math'")
    prefix.with_name("a.roles").write_bytes(bytes([0, 1, 2]))
    index.require_roles("source 'math'")
    assert index.roles(1, 0, 1).tolist() == [2]


def test_a_sidecar_of_another_index_is_refused(tmp_path):
    prefix = write_index(tmp_path / "a", DOCUMENTS)
    assert read_sidecar(IndexedDocuments(prefix))["tokens"] == 8
    write_index(tmp_path / "b", [[1, 2]])
    prefix.with_name("a.json").write_bytes((tmp_path / "b.json").read_bytes())
    with pytest.raises(UserError, match="describes another index"):
        read_sidecar(IndexedDocuments(prefix))


def test_the_probe_sees_size_head_middle_and_tail(tmp_path):
    path = tmp_path / "x"
    data = bytearray(np.random.default_rng(0).bytes(10**6))
    path.write_bytes(data)
    first = probe([path])
    assert probe([path]) == first
    for offset in (0, 10**6 // 63 * 30 + 100, 10**6 - 1):
        changed = data.copy()
        changed[offset] ^= 1
        path.write_bytes(changed)
        assert probe([path]) != first
    path.write_bytes(data + b"\0")
    assert probe([path]) != first


def test_the_probe_tells_sizes_apart_where_all_bytes_are_equal(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(10**6))
    first = probe([path])
    path.write_bytes(bytes(10**6 + 4096))
    assert probe([path]) != first


def test_two_to_the_31_tokens_and_more(tmp_path):
    """A sparse .bin of 4.3 billion tokens: offsets beyond 32 bits are read right."""
    lengths = np.array([2**31 - 1, 2**31 - 1, 8], dtype=np.int64)
    total = int(lengths.sum())
    starts = (np.cumsum(lengths) - lengths) * 2
    with open(tmp_path / "big.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 4))
        file.write(lengths.astype(np.int32).tobytes() + starts.tobytes())
        file.write(np.arange(4, dtype=np.int64).tobytes())
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(2 * total)
        file.seek(2 * (total - 8))
        file.write(np.arange(1, 9, dtype=np.uint16).tobytes())
    index = IndexedDocuments(tmp_path / "big")
    assert index.num_tokens == total
    index.check_pointers()
    assert index.document(2).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert index.tokens(1, 2**31 - 3, 2).tolist() == [0, 0]


def test_counting_documents_name_their_place(tmp_path):
    index = IndexedDocuments(write_index(tmp_path / "a", counting_documents([2, 3])))
    assert index.document(1).tolist() == [2, 3, 4]
