"""Digests by pieces; errors that name their file."""

import errno
from pathlib import Path

import pytest
from blake3 import blake3

from megatron_math.base import files
from megatron_math.base.files import (
    atomic_open,
    blake3_64mib,
    blake3_file,
    blake3_piece,
    num_pieces,
)


@pytest.mark.parametrize("num_bytes", [0, 1, 99, 100, 101, 200, 1234])
def test_a_digest_by_pieces_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    content = bytes(i % 251 for i in range(num_bytes))
    path = tmp_path / "x"
    path.write_bytes(content)
    plain = blake3(blake3(content).digest() if content else b"").hexdigest()
    assert blake3_64mib(path) == plain  # one piece, or none
    assert blake3_file(path) == blake3(content).hexdigest()
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    monkeypatch.setattr(files, "CHUNK_BYTES", 30)
    pieces = [blake3(content[at : at + 100]).digest() for at in range(0, num_bytes, 100)]
    assert num_pieces(num_bytes) == len(pieces)
    assert [blake3_piece(path, number) for number in range(len(pieces))] == pieces
    assert blake3_64mib(path) == blake3(b"".join(pieces)).hexdigest()


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
