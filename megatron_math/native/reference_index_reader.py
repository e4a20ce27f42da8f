"""The `.idx` parser in plain Python: what csrc/index_reader.h must equal."""

import struct

import numpy as np
import numpy.typing as npt

from megatron_math.native.index_reader import DTYPES, HEADER_BYTES, IndexFacts, Int64Array


def parse_index_header(header: bytes, idx_bytes: int, bin_bytes: int) -> IndexFacts:
    """Unpack and compare; see `index_reader.parse_index_header`."""
    if min(len(header), idx_bytes) < HEADER_BYTES or not header.startswith(b"MMIDIDX\x00\x00"):
        raise ValueError(f"{header[:9]!r} in {idx_bytes} bytes")
    version, code, num_documents, num_boundaries = struct.unpack("<QBQQ", header[9:HEADER_BYTES])
    if version != 1 or code not in DTYPES:
        raise ValueError(f"version {version}, code {code}")
    pointers_at = HEADER_BYTES + 4 * num_documents
    boundaries_at = pointers_at + 8 * num_documents
    end = boundaries_at + 8 * num_boundaries
    if idx_bytes not in (end, end + num_documents):
        raise ValueError(f"{idx_bytes} bytes instead of {end}")
    dtype = np.dtype(DTYPES[code])
    if bin_bytes < 0 or bin_bytes % dtype.itemsize:
        raise ValueError(f"{bin_bytes} bytes of {dtype}")
    return IndexFacts(
        dtype,
        num_documents,
        num_boundaries,
        HEADER_BYTES,
        pointers_at,
        boundaries_at,
        end if end < idx_bytes else None,
    )


def check_index(
    lengths: npt.NDArray[np.int32],
    pointers: npt.NDArray[np.int64],
    item_bytes: int,
    bin_bytes: int,
    *,
    first: int = 0,
    begin: int = 0,
) -> tuple[int, int]:
    """One document after the other in exact numbers; see `index_reader.check_index`."""
    if first < 0 or not 0 <= begin <= bin_bytes or not 1 <= item_bytes <= 8:
        raise ValueError(f"document {first} at byte {begin} of {bin_bytes}")
    if len(lengths) != len(pointers):
        raise ValueError(f"{len(lengths)} lengths, {len(pointers)} pointers")
    end = begin
    for i, (length, pointer) in enumerate(zip(lengths.tolist(), pointers.tolist(), strict=True)):
        if length < 0 or pointer != end or end + length * item_bytes > bin_bytes:
            raise ValueError(f"document {first + i}: {length} tokens from byte {pointer} on")
        end += length * item_bytes
    return end, int(np.count_nonzero(lengths == 0))


def bin_pieces(pointers: Int64Array, item_bytes: int, pieces_P5: Int64Array) -> Int64Array:
    """One column after the other; see `index_reader.bin_pieces`."""
    documents, starts, counts, padding, _ = pieces_P5.T
    if len(documents) and not 0 <= documents.min() <= documents.max() < len(pointers):
        raise IndexError(f"documents {documents} of {len(pointers)}")
    return np.stack((pointers[documents] // item_bytes + starts, counts, padding), axis=1)
