"""Parts arrive whole or not at all, from who has the secret and from nobody else."""

import errno
import json
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megatron_math.checkpoint.parcels as parcels
from megatron_math.base.files import write_json
from megatron_math.checkpoint.folders import seen
from megatron_math.checkpoint.parcels import (
    PARTS,
    Listener,
    leave_only,
    part_file,
    part_table,
    read_table,
    send_part,
    signed,
)

NAME = "iter_0000050.0123456789ab"
SECRET = secrets.token_hex(32)


def write_part(folder: Path, rank: int, content: bytes) -> None:
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    path = part_file(folder, rank)
    path.write_bytes(content)
    label = {"copy": folder.name, "rank": rank, "run": "r", "world": 4, "seen": seen(path)}
    write_json(part_table(folder, rank), signed(label))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    found = Listener(address="127.0.0.1", port=0, secret=SECRET, folder=str(tmp_path / "there"))
    found.start()
    yield found
    found._socket.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy's folder with the part of rank 3."""
    write_part(tmp_path / "here" / NAME, 3, secrets.token_bytes(3_000_001))
    return tmp_path / "here" / NAME


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_part_arrives_with_its_table(here: Path, listener: Listener, tmp_path: Path) -> None:
    send_part(("127.0.0.1", listener.port), SECRET, here, 3)
    there = tmp_path / "there" / NAME
    assert files_in(there) == [f"{PARTS}/3.json", "__3_0.distcp"]
    assert part_file(there, 3).read_bytes() == part_file(here, 3).read_bytes()
    assert read_table(there, 3) == read_table(here, 3) is not None
    send_part(("127.0.0.1", listener.port), SECRET, here, 3)  # again, in its place
    assert len(files_in(there)) == 2


def test_another_secret_is_not_let_in(here: Path, listener: Listener, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing|reset|pipe"):
        send_part(("127.0.0.1", listener.port), secrets.token_hex(32), here, 3)
    assert not (tmp_path / "there").exists()
    send_part(("127.0.0.1", listener.port), SECRET, here, 3)  # others are served


def head(**changes: Any) -> bytes:
    small = {"bytes": 1, "blake3_64mib": "00"}
    return json.dumps({"copy": NAME, "rank": 0, "seen": [small, small]} | changes).encode()


def said_to(port: int, *, mac: bytes | None, text: bytes, rest: bytes = b"") -> bytes:
    """What a listener answers to a head behind a code: the right one where `mac` is None."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        nonce = parcels._exactly(connection, 32)
        code = parcels._mac(SECRET, nonce, text) if mac is None else mac
        answer = b""
        try:
            connection.sendall(len(text).to_bytes(4, "big") + code + text + rest)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1000):
                answer += part
        except OSError as error:  # closed with our bytes unread, at any of these; not a time-out
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
        return answer


def test_a_stranger_changes_nothing(listener: Listener, here: Path, tmp_path: Path) -> None:
    seconds = 60 * 1.0
    silent = socket.create_connection(("127.0.0.1", listener.port), timeout=seconds)
    with silent:
        assert said_to(listener.port, mac=bytes(32), text=head()) == b""
        recorded = parcels._mac(SECRET, bytes(32), head())  # for other random bytes
        assert said_to(listener.port, mac=recorded, text=head()) == b""
        assert said_to(listener.port, mac=None, text=head() + b" " * 5000) == b""
        assert said_to(listener.port, mac=bytes(32), text=b"\x80\x04\x95 no pickle is read") == b""
        assert not (tmp_path / "there").exists()
        begin = time.monotonic()
        send_part(("127.0.0.1", listener.port), SECRET, here, 3)  # beside the silent one
        assert time.monotonic() - begin < parcels._GREETING_SECONDS
    assert files_in(tmp_path / "there") == [f"{NAME}/{PARTS}/3.json", f"{NAME}/__3_0.distcp"]


@pytest.mark.parametrize("name", ["../away", "iter_0000050", "/etc", f"{NAME}/x", ".", f"{NAME}\n"])
def test_no_place_but_a_copy_is_written_to(listener: Listener, tmp_path: Path, name: str) -> None:
    assert b"is no name of a copy" in said_to(listener.port, mac=None, text=head(copy=name))
    assert files_in(tmp_path) == []


def test_what_was_changed_on_the_way_is_not_held(listener: Listener, tmp_path: Path) -> None:
    answer = said_to(listener.port, mac=None, text=head(), rest=b"ab")
    assert b"the bytes of rank 0 are not those that were sent" in answer
    answer = said_to(listener.port, mac=None, text=head(), rest=b"")
    assert b"1 bytes too early" in answer
    assert files_in(tmp_path) == []


def test_a_part_without_room_is_refused_before_it_comes(listener: Listener, tmp_path: Path) -> None:
    large = {"bytes": 1 << 60, "blake3_64mib": "00"}
    answer = said_to(listener.port, mac=None, text=head(seen=[large, large]))
    assert b"bytes left, and the part has" in answer
    assert files_in(tmp_path) == []


def test_a_table_of_another_place_or_with_a_changed_byte_is_none(here: Path) -> None:
    table = part_table(here, 3)
    other = here.with_name("iter_0000051.0123456789ab")
    write_part(other, 3, b"x")
    own, foreign = table.read_bytes(), part_table(other, 3).read_bytes()
    for content in (foreign, own.replace(b'"world": 4', b'"world": 5'), own[:-9], b"", b"[]"):
        table.write_bytes(content)
        assert read_table(here, 3) is None
    table.write_bytes(own)
    assert read_table(here, 3) is not None
    assert read_table(here, 2) is None


def test_older_copies_go_and_what_is_no_copy_stays(tmp_path: Path) -> None:
    for name in ("iter_0000001.a", "iter_0000002.b", "mine"):
        (tmp_path / name / PARTS).mkdir(parents=True)
    leave_only(tmp_path, ["iter_0000002.b", "iter_0000003.b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000002.b", "mine"]
