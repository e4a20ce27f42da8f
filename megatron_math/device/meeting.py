"""Where ranks meet, who has not come, and which interface their sockets listen on.

torch's own store listens on every interface of the machine (2.13, seen in /proc/net/tcp), and
whoever reaches it can read and write what the ranks tell each other. Who waits in it for a host
that never started learns after the time-out how many have not come, and not which.
"""

import contextlib
import datetime
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from typing import Literal

import torch.distributed as dist

from megatron_math.base.log import log
from megatron_math.device.start import LOOPBACK, LOOPBACK_INTERFACE, host_of

_ALL = "all have come"
TOLD_EVERY = 60.0
"""Seconds between two lines about those who have not come."""
HEARD_WITHIN = 10.0
"""Seconds that rank 0 stays for the others to read who is missing: its store goes with it."""


class NobodyCame(RuntimeError):  # noqa: N818 - not an error of the program
    """Some of a job's processes were not there in time."""


def meeting_store(
    address: str,
    port: int,
    *,
    rank: int,
    world: int,
    timeout: datetime.timedelta,
    what: Literal["rank", "node"] = "rank",
) -> dist.Store:
    """The store at `address`, which rank 0 opens on the interface of that address only.

    Where that cannot be (a name that this machine knows as itself, an address that lies before a
    gateway) it is opened on all, and the log says so.

    Collective: all ranks (of processes; or of nodes, where `what` is one) are there afterwards.
    Raises NobodyCame on all, with the ranks and, as far as SLURM tells, the hosts that are missing.
    """
    # Each opens it without waiting for the others: who is missing is seen below.
    listening = None if rank else _bound(address, port).detach()
    try:
        store = dist.TCPStore(
            address, port, world, is_master=not rank, timeout=timeout, wait_for_workers=False,
            master_listen_fd=listening,
        )  # fmt: skip
    except dist.DistError as error:
        raise NobodyCame(
            f"{what} {rank} on {socket.gethostname()}: no answer from {address}:{port} within "
            f"{timeout.total_seconds():.0f} s, where {what} 0{_on(0, what)} should be. Has it "
            f"started, and can it be reached from here?"
        ) from error
    _call_roll(store, rank, world, timeout.total_seconds(), what)
    return store


def _call_roll(
    store: dist.Store, rank: int, world: int, seconds: float, what: Literal["rank", "node"]
) -> None:
    store.set(f"here {rank}", socket.gethostname())
    if rank:
        # A moment longer than rank 0, which began later than this rank or not.
        longer = datetime.timedelta(seconds=seconds + 30)
        try:
            store.wait([_ALL], longer)
            said = store.get(_ALL).decode()
            if said:
                store.set(f"heard {rank}", "")
        except dist.DistError as error:
            raise NobodyCame(f"{what} 0{_on(0, what)} has gone before all had come") from error
    else:
        said = _missing(store, world, seconds, what)
        store.set(_ALL, said)
        if said:
            _wait_until_heard(store, world)
    if said:
        raise NobodyCame(said)


def _wait_until_heard(store: dist.Store, world: int) -> None:
    here = [rank for rank in range(1, world) if store.check([f"here {rank}"])]
    if here:
        with contextlib.suppress(dist.DistError):  # one of them has gone
            store.wait([f"heard {rank}" for rank in here], datetime.timedelta(seconds=HEARD_WITHIN))


def _missing(store: dist.Store, world: int, seconds: float, what: Literal["rank", "node"]) -> str:
    """Wait until all have come. What is to be said of those who did not in time, or nothing."""
    begin = time.monotonic()
    told, missing = begin, list(range(world))
    while True:
        if store.check([f"here {rank}" for rank in missing]):
            return ""
        now = time.monotonic()
        is_over = now - begin > seconds
        if is_over or now - told > TOLD_EVERY:
            told = now
            missing = [rank for rank in missing if not store.check([f"here {rank}"])]
            hosts = dict.fromkeys(host for rank in missing if (host := host_of(rank, what)))
            where = f" of host(s) {', '.join(hosts)}" if hosts else ""
            numbers = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
            text = f"{len(missing)} of {world} {what}s have not come after {now - begin:.0f} s"
            text += f": {what} {numbers}{where}"
            if is_over and missing:
                return text
            log.warning("%s", text)
        time.sleep(0.05)


def _on(rank: int, what: Literal["rank", "node"]) -> str:
    host = host_of(rank, what)
    return f" of host {host}" if host else ""


def _bound(address: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    # What the others reach is IPv4 wherever a name has both.
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    named_itself = ipaddress.ip_address(place[0]).is_loopback and address not in (
        LOOPBACK, "localhost", "::1",
    )  # fmt: skip
    if not named_itself:
        try:
            return _socket(family, place)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    log.info("rendezvous on all interfaces: %s is no address that others have of here", address)
    return _socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET, ("", port))


def own_address(towards: str) -> str:
    """Of this machine, on the interface by which it reaches `towards`. Nothing is sent."""
    found = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return probe.getsockname()[0]


def _socket(family: int, place: tuple) -> socket.socket:
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(place)
    except OSError:
        listening.close()
        raise
    return listening


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While inside, libraries of this process open their sockets on loopback."""
    missing = [name for name in LOOPBACK_INTERFACE if name not in os.environ]
    os.environ.update({name: LOOPBACK_INTERFACE[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
