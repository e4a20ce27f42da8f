"""Digests by pieces; errors that name their file."""

import errno
import hashlib
from pathlib import Path

import pytest

from megatron_math.base import files
from megatron_math.base.files import atomic_open, num_pieces, sha256_64mib, sha256_piece


@pytest.mark.parametrize("num_bytes", [0, 1, 99, 100, 101, 200, 1234])
def test_a_digest_by_pieces_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    content = bytes(i % 251 for i in range(num_bytes))
    path = tmp_path / "x"
    path.write_bytes(content)
    plain = hashlib.sha256(hashlib.sha256(content).digest() if content else b"").hexdigest()
    assert sha256_64mib(path) == plain  # one piece, or none
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    monkeypatch.setattr(files, "CHUNK_BYTES", 30)
    pieces = [hashlib.sha256(content[at : at + 100]).digest() for at in range(0, num_bytes, 100)]
    assert num_pieces(num_bytes) == len(pieces)
    assert [sha256_piece(path, number) for number in range(len(pieces))] == pieces
    assert sha256_64mib(path) == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    """/dev/full is what write() meets there; the earlier file stays."""
    path = tmp_path / "x.json"
    path.write_text("earlier")
    with (
        pytest.raises(OSError, match="No space left on device: .*x.json") as caught,
        atomic_open(path),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
