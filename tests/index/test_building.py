"""What is written is digested on its way, and leaves the page cache when it is on disk."""

import ctypes
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from megatron_math.index import building
from megatron_math.index.building import WrittenDigest

NUM_BYTES = 8 << 20


def cached_share(path: Path) -> float:
    """Which share of the file's pages is in memory; asking does not change it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * (NUM_BYTES // mmap.PAGESIZE))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(NUM_BYTES), pages) == 0
        return sum(page & 1 for page in pages) / len(pages)


def test_what_is_on_disk_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "x.bin.partial"
    content = np.random.default_rng(1).bytes(NUM_BYTES)
    path.write_bytes(content)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_share(path) > 0.5:
            pytest.skip("this file system keeps its pages whatever is advised (tmpfs does)")
    path.read_bytes()  # all is cached again
    half = NUM_BYTES // 2
    digest = WrittenDigest(path, half)  # an earlier process wrote so much
    assert digest.finish() == blake3(content[:half]).hexdigest()
    assert cached_share(path) > 0.9  # nobody said that it is on disk
    digest.let_go(half)
    assert 0.4 < cached_share(path) < 0.6
    digest.add(memoryview(content)[half:])
    digest.let_go(NUM_BYTES)
    assert cached_share(path) < 0.1
    assert digest.finish() == blake3(content).hexdigest()
    digest.close()
    assert path.read_bytes() == content


def test_little_waits_to_be_digested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.bin.partial"
    path.touch()
    monkeypatch.setattr(building, "MOST_WAITING_BYTES", 3)
    go_on = threading.Event()
    digest = WrittenDigest(path, 0)
    digest.finish()
    digest._thread.submit(go_on.wait, 60)
    with ThreadPoolExecutor(1) as writer:
        writing = [writer.submit(digest.add, memoryview(b"ab")) for _ in range(2)]
        writing[0].result(60)
        with pytest.raises(TimeoutError):
            writing[1].result(0.2)
        go_on.set()
        writing[1].result(60)
    assert digest.finish() == blake3(b"abab").hexdigest()
    digest.close()


def test_a_file_that_lost_what_was_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bin.partial"
    path.write_bytes(b"abc")
    digest = WrittenDigest(path, 4)
    with pytest.raises(OSError, match="cannot read back byte 3"):
        digest.finish()
    digest.close()
