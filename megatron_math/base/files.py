"""Files that are either whole or absent: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

CHUNK_BYTES = 1 << 20
PIECE_BYTES = 1 << 26  # of blake3_64mib


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside names `path`: read() and write(), which meet full disks, know no names."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_open(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes `path` only when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # fixed name: a kill leaves one file, reused
    try:
        with (
            naming(path),
            open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file,
        ):
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, since other readers would choke on it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def blake3_file(path: Path) -> str:
    """For corpora and indexes, which are the terabytes.

    3.8 GB a second where sha256 makes 1.7 with the processor's own instructions for it
    (2026-11-22), which many processors do not have.
    """
    digest = blake3()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def blake3_piece(path: Path, number: int) -> bytes:
    """Digest of the file's bytes from 64 MiB x `number` on, 64 MiB at most; 32 bytes."""
    digest, chunk = blake3(), memoryview(bytearray(CHUNK_BYTES))
    left = PIECE_BYTES
    with naming(path), open(path, "rb", buffering=0) as file:
        file.seek(number * PIECE_BYTES)
        while left and (got := file.readinto(chunk[: min(left, CHUNK_BYTES)])):
            digest.update(chunk[:got])
            left -= got
    return digest.digest()


def num_pieces(num_bytes: int) -> int:
    """How many pieces of 64 MiB (the last one maybe shorter) make so many bytes."""
    return -(-num_bytes // PIECE_BYTES)


def blake3_of_pieces(pieces: Iterable[bytes]) -> str:
    """blake3 of the digests of all 64 MiB pieces of a file, one after another.

    Pieces may be digested in parallel and on different machines; the result is one.
    """
    return blake3(b"".join(pieces)).hexdigest()


def blake3_64mib(path: Path) -> str:
    """The digest of a whole file by its pieces."""
    count = num_pieces(path.stat().st_size)
    return blake3_of_pieces(blake3_piece(path, number) for number in range(count))


def sha256_json(value: Any) -> str:
    """Digest of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
