"""Doors to Linux that Python does not open: namespaces, mounts, seccomp, Landlock, capabilities.

Each raises OSError with the kernel's errno. Nothing here decides what is allowed.
"""

import ctypes
import fcntl
import os
import struct

from megatron_math.sandbox.syscalls import numbers

NEW_NAMESPACE = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 1 << 10, 1 << 11, 1 << 21
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
LAST_CAPABILITY = 63  # the kernel says EINVAL after its own last one

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101
NOTICE_BYTES = 80  # struct seccomp_notif: id, pid, flags, then nr, arch, pointer, six arguments

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

# Rights of Landlock's files, by the bit that the kernel gives them.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = (1 << b for b in range(6, 12))
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(12, 16))
# How many of these bits each version knows, beginning with version 1.
FILE_RIGHTS_KNOWN = (13, 14, 15, 15, 16)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(name: str, *arguments: object) -> int:
    # every argument is a register wide; a bare int would be passed as 32 bits
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(numbers()[name]), *wide))


def unshare(kind: str) -> None:
    """Leave the namespace of this kind for a new one; for "pid" the next child does."""
    _checked(_libc.unshare(NEW_NAMESPACE[kind]))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            options.encode() or None,
        )
    )


def unmount(target: str) -> None:
    """Take a mount away at once; what is still open in it lives on unseen."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH))


def enter_root(folder: str) -> None:
    """Make the mount at `folder` the root, and let go of the old one."""
    os.chdir(folder)
    _syscall("pivot_root", b".", b".")
    unmount(".")
    os.chdir("/")


def prctl(option: int, first: int = 0) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(first), zero, zero, zero))


def clear_bounding_set() -> None:
    """No later exec can give a capability back; needs CAP_SETPCAP."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            if capability == 0:
                raise
            return


def drop_capabilities() -> None:
    """Give every capability of this thread away."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3: two words each
    _syscall("capset", header, bytes(24))


def install_filter(program: bytes, *, listen: bool) -> int:
    """Put a seccomp program of 8-byte instructions on this thread, for good.

    listen: returns the descriptor on which what the program reports can be heard and answered.
    """
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if listen else 0
    return _syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, head)


def take_descriptor(process: int, number: int) -> int:
    """A copy of descriptor `number` of the process behind the pidfd `process`."""
    return _syscall("pidfd_getfd", process, number, 0)


def hear(listener: int) -> tuple[int, int]:
    """The next report of a filter: its id, and the number of the system call."""
    notice = bytearray(NOTICE_BYTES)
    fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notice)
    identity, _, _, call = struct.unpack_from("=QIIi", notice)
    return identity, call


def deny(listener: int, identity: int, error: int) -> None:
    """Answer a report: the call fails with `error`."""
    answer = bytearray(struct.pack("=QqiI", identity, 0, -error, 0))
    fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer)


def landlock_version() -> int:
    """The kernel's Landlock version, from 1."""
    return _syscall("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)


class Landlock:
    """A set of rules: what is not allowed by one is denied, on files, TCP ports, and signals and
    abstract sockets outside, as far as the kernel's version knows them."""

    def __init__(self) -> None:
        version = landlock_version()
        known = FILE_RIGHTS_KNOWN[min(version, len(FILE_RIGHTS_KNOWN)) - 1]
        self._rights = (1 << known) - 1
        ports, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
        fields = struct.pack("=QQQ", self._rights, ports, scopes)
        length = 24 if version >= 6 else 16 if version >= 4 else 8
        self.descriptor = _syscall("landlock_create_ruleset", fields[:length], length, 0)

    def allow(self, path: str, rights: int) -> None:
        """Allow `rights` on a file or on everything below a folder."""
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
        place = os.open(path, os.O_PATH)
        try:
            rule = struct.pack("=Qi", rights & self._rights, place)
            ruleset = self.descriptor
            _syscall("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(place)

    def enforce(self) -> None:
        """From here on, for this thread and all it starts; needs no_new_privs."""
        _syscall("landlock_restrict_self", self.descriptor, 0)

    def close(self) -> None:
        os.close(self.descriptor)
