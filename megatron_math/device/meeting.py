"""Where ranks meet and which interface their sockets listen on: loopback on one machine.

torch's own store listens on every interface of the machine (2.13, seen in /proc/net/tcp), and
whoever reaches it can read and write what the ranks tell each other.
"""

import contextlib
import datetime
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator

import torch.distributed as dist

from megatron_math.base.log import log
from megatron_math.device.start import LOOPBACK, LOOPBACK_INTERFACE


def meeting_store(
    address: str, port: int, *, rank: int, world: int, timeout: datetime.timedelta
) -> dist.Store:
    """The store at `address`, which rank 0 opens on the interface of that address only.

    Where that cannot be (a name that this machine knows as itself, an address that lies before a
    gateway) it is opened on all, and the log says so.
    """
    if rank:
        return dist.TCPStore(address, port, world, is_master=False, timeout=timeout)
    listening = _bound(address, port)
    return dist.TCPStore(
        address, port, world, is_master=True, timeout=timeout, master_listen_fd=listening.detach()
    )


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
