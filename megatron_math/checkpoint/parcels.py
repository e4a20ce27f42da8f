"""Parts of a local copy: how one lies in a node's folder, and how it gets to another node.

    <folder>/iter_0000050.<launch>/   what this node holds of one copy
        __3_0.distcp                  rank 3's tensors, as in a checkpoint
        .parts/3.json                 written last: what lies where in it, and the digests of both

A writer listens for parts on one address and port. To a connection it says 32 random bytes; what
comes back is a head (JSON: which part, bytes and digests of its two files) behind its length and
its HMAC, keyed by a secret that only the writers of this launch have, over the random bytes and
the head. Without it the connection is closed, and nothing was written. Then come the two files,
as long as the head says; they get their names once their digests are right. No torch.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

from megatron_math.base.files import CHUNK_BYTES, read_json, sha256_json
from megatron_math.checkpoint.folders import seen

PARTS = ".parts"
COPY_NAME = re.compile(r"iter_(\d{7,})\.[0-9a-f]{12}")
_NONCE_BYTES, _MAC_BYTES, _MOST_HEAD_BYTES = 32, 32, 4096
_GREETING_SECONDS = 10.0
_SILENCE_SECONDS = 120.0
"""Between two pieces of a part, and until its digests are taken."""
_MOST_CONNECTIONS = 64


def part_file(folder: Path, rank: int) -> Path:
    return folder / f"__{rank}_0.distcp"


def part_table(folder: Path, rank: int) -> Path:
    return folder / PARTS / f"{rank}.json"


def signed(part: dict[str, Any]) -> dict[str, Any]:
    """A table with a digest of itself, so that a changed byte of it is found."""
    return part | {"digest": sha256_json(part)}


def read_table(folder: Path, rank: int) -> dict[str, Any] | None:
    """The table of a part that is held here; None where it is not there, or damaged."""
    try:
        part = read_json(part_table(folder, rank))
        rest = {key: value for key, value in part.items() if key != "digest"}
        named = part["copy"], part["rank"]
        is_sound = part["digest"] == sha256_json(rest) and named == (folder.name, rank)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return part if is_sound else None


def leave_only(folder: Path, names: list[str]) -> None:
    """Remove all copies in `folder` but these."""
    for path in folder.glob("iter_*"):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)


def send_part(to: tuple[str, int], secret: str, folder: Path, rank: int) -> None:
    """Have the writer that listens at `to` hold a part, too; it does when this returns."""
    files = part_file(folder, rank), part_table(folder, rank)
    head = json.dumps({"copy": folder.name, "rank": rank, "seen": [seen(path) for path in files]})
    with socket.create_connection(to[:2], timeout=_SILENCE_SECONDS) as connection:
        nonce = _exactly(connection, _NONCE_BYTES)
        mac = _mac(secret, nonce, head.encode())
        connection.sendall(len(head).to_bytes(4, "big") + mac + head.encode())
        for path in files:
            with path.open("rb") as stream:
                connection.sendfile(stream)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("r", encoding="utf-8") as answer:
            said = answer.read(1000)
    if said != "held":
        raise ConnectionError(f"the other side says: {said or 'nothing'}")


class Listener(threading.Thread):
    """Takes in parts of others for `folder`, for as long as this process lives."""

    def __init__(self, *, address: str, port: int, secret: str, folder: str) -> None:
        super().__init__(daemon=True)
        self._folder, self._secret = Path(folder), secret
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family)
        self.port: int = self._socket.getsockname()[1]
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def run(self) -> None:
        """Each connection has a thread, so that none waits for a silent one."""
        while True:
            self._places.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError:  # it is gone already, or this process has too many files open
                self._places.release()
                time.sleep(0.1)
                continue
            threading.Thread(target=self._take, args=(connection,), daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            try:
                head = self._head(connection)
                if head is not None:
                    connection.sendall(self._answer(connection, head).encode())
            finally:
                self._places.release()

    def _head(self, connection: socket.socket) -> dict[str, Any] | None:
        """What comes; None where it is not from a writer of this launch."""
        connection.settimeout(_GREETING_SECONDS)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        try:
            connection.sendall(nonce)
            length = int.from_bytes(_exactly(connection, 4), "big")
            if length > _MOST_HEAD_BYTES:
                return None
            mac, text = _exactly(connection, _MAC_BYTES), _exactly(connection, length)
        except OSError:
            return None
        if not hmac.compare_digest(mac, _mac(self._secret, nonce, text)):
            return None
        connection.settimeout(_SILENCE_SECONDS)
        return json.loads(text)

    def _answer(self, connection: socket.socket, head: dict[str, Any]) -> str:
        try:
            self._hold(connection, head)
        except Exception as error:  # noqa: BLE001 - the sender says it to its rank
            while connection.recv(CHUNK_BYTES):  # with bytes unread the answer would be lost
                pass
            return f"{type(error).__name__}: {error}"[:900]
        return "held"

    def _hold(self, connection: socket.socket, head: dict[str, Any]) -> None:
        name, rank = head["copy"], int(head["rank"])
        if not COPY_NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no name of a copy")
        folder = self._folder / name
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        needed = sum(one["bytes"] for one in head["seen"])
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(f"{self._folder} has {free} bytes left, and the part has {needed}")
        files = part_file(folder, rank), part_table(folder, rank)
        came = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") for path in files]
        try:
            for path, expected in zip(came, head["seen"], strict=True):
                _receive(connection, path, expected["bytes"])
                if seen(path) != expected:
                    raise ValueError(f"the bytes of rank {rank} are not those that were sent")
            for path, final in zip(came, files, strict=True):
                os.replace(path, final)
        finally:
            for path in came:
                path.unlink(missing_ok=True)


def _receive(connection: socket.socket, path: Path, num_bytes: int) -> None:
    chunk = memoryview(bytearray(CHUNK_BYTES))
    with path.open("wb") as stream:
        while num_bytes:
            got = connection.recv_into(chunk[: min(num_bytes, CHUNK_BYTES)])
            if not got:
                raise ConnectionError(f"the connection ended {num_bytes} bytes too early")
            stream.write(chunk[:got])
            num_bytes -= got


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    found = b""
    while len(found) < num_bytes:
        if not (part := connection.recv(num_bytes - len(found))):
            raise ConnectionError("the connection was closed")
        found += part
    return found


def _mac(secret: str, nonce: bytes, head: bytes) -> bytes:
    return hmac.digest(bytes.fromhex(secret), nonce + head, hashlib.sha256)
