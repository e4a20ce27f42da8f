"""What is written is digested behind the writer and then leaves the page cache."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from megatron_math.index.building import FollowingDigest

NUM_BYTES = 8 << 20


def cached_share(path: Path) -> float:
    """Which share of the file's pages is in memory; asking does not change it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * (NUM_BYTES // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(NUM_BYTES), pages) == 0
        return sum(page & 1 for page in pages) / len(pages)


def test_what_is_digested_and_on_disk_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "x.bin.partial"
    content = np.random.default_rng(1).bytes(NUM_BYTES)
    path.write_bytes(content)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_share(path) > 0.5:
            pytest.skip("this file system keeps its pages whatever is advised (tmpfs does)")
    path.read_bytes()  # all is cached again
    digest = FollowingDigest(path)
    digest.let_go(NUM_BYTES)  # nothing has been digested, so nothing goes
    assert cached_share(path) > 0.9
    digest.advance(NUM_BYTES // 2)
    half = digest.finish()
    assert half == blake3(content[: NUM_BYTES // 2]).hexdigest()
    digest.let_go(NUM_BYTES)
    assert 0.4 < cached_share(path) < 0.6
    digest.advance(NUM_BYTES)
    assert digest.finish() == blake3(content).hexdigest()
    digest.let_go(NUM_BYTES)
    assert cached_share(path) < 0.1
    digest.close()
    assert path.read_bytes() == content
