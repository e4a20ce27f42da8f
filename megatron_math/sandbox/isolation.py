"""The layers around a worker, put on one by one: each is on, or off with the reason.

`Setup` is what a sandbox asks of its worker; `Layer` is what the machine gave.
"""

import functools
import importlib
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass

from megatron_math.sandbox import kernel, root, syscall_filter

NOBODY = 65534
# Those of the standard library whose shared objects may lie in folders of their own.
WITH_LIBRARIES = ("_ctypes", "_decimal", "_hashlib", "_lzma", "_bz2", "zlib", "_sqlite3", "_ssl")
NAMESPACES = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup")
LAYERS = (*NAMESPACES, "landlock", "seccomp", "rlimits", "identity")
ASKED_OFF = "switched off by the caller"


@dataclass(frozen=True)
class Layer:
    """One kind of protection; `found` says what is on, or why it is not."""

    name: str
    on: bool
    found: str


@dataclass(frozen=True)
class Setup:
    """What a worker is asked for. Folders of packages go on the module path."""

    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int
    threads: int
    packages: tuple[str, ...]
    preload: tuple[str, ...]
    without: tuple[str, ...]


def attempt(step: Callable[[], object]) -> str:
    """Do it in a forked process that ends then: "" or what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the layer is off
            os.write(write, f"{type(error).__name__}: {error}"[:500].encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read().decode()
    _, status = os.waitpid(child, 0)
    return text or (f"ended with status {status}" if status else "")


class Isolation:
    """The layers of this process and of all that it forks, as far as they came."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.layers: dict[str, Layer] = {}
        self.identity: int | None = None  # the user that a snippet becomes; None: stays
        self.has_nobody = True  # nobody is a user of this namespace
        # threads that the kernel counts beside a snippet's own; None: a whole user's, so no limit
        self.other_threads: int | None = None
        self.reports = False  # refused system calls can be heard of
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)  # the new root has none
        self.folders: list[str] = []  # the standard library, then those of shared objects

    def on(self, name: str) -> bool:
        return name in self.layers and self.layers[name].on

    def put_on(self, name: str, step: Callable[[], str]) -> bool:
        """Run `step`, which says what it found, and note the layer; an error is a layer off."""
        if name in self.setup.without:
            self.layers[name] = Layer(name, False, ASKED_OFF)
        else:
            try:
                self.layers[name] = Layer(name, True, step())
            except Exception as error:  # noqa: BLE001 - told to the caller, who decides
                self.layers[name] = Layer(name, False, f"{type(error).__name__}: {error}")
        return self.on(name)

    def leave_namespaces(self) -> None:
        """To be called before the fork of the process that serves, which is pid 1 then."""
        os.umask(0o022)
        for name in WITH_LIBRARIES:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
        self.folders = [os.path.dirname(os.__file__), *root.library_folders()]
        self.put_on("user", self._new_user)
        for name in ("pid", "network", "ipc", "uts", "cgroup"):
            self.put_on(name, functools.partial(self._new_namespace, name))
        if self.on("uts"):
            socket.sethostname("sandbox")
        self.put_on("mount", self._new_root)

    def _new_user(self) -> str:
        user, group = os.geteuid(), os.getegid()
        both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
        choices = [(both, both)] if user == 0 else []
        choices.append((f"{NOBODY} {user} 1\n", f"{NOBODY} {group} 1\n"))
        for maps in choices:
            # In a process of its own first: out of a namespace without maps no way leads back.
            why = attempt(functools.partial(enter_user_namespace, maps))
            if not why:
                break
        else:
            raise OSError(why)
        enter_user_namespace(maps)
        self.has_nobody = maps == (both, both)
        try:
            _write("/proc/sys/user/max_user_namespaces", "0")
        except OSError:
            return "own"
        return "own, and none can be made below it"

    def _new_namespace(self, name: str) -> str:
        kernel.unshare(name)
        return {"network": "own, empty", "pid": "own"}.get(name, "own")

    def _new_root(self) -> str:
        kernel.unshare("mount")
        hidden = [os.path.join(self.folders[0], name) for name in ("site-packages", "test")]
        root.build_and_enter(self.folders, hidden, list(self.setup.packages))
        return "own root, read-only; /tmp new for each snippet"

    def settle(self) -> None:
        """To be called in the process that serves: what each forked snippet will put on."""
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self.put_on("identity", self._find_identity)
        self.put_on("rlimits", self._find_limits)
        self.put_on("landlock", self._try_landlock)
        self.put_on("seccomp", self._try_filter)

    def _find_identity(self) -> str:
        try:
            kernel.clear_bounding_set()
        except OSError:
            if os.geteuid() == 0:
                raise
        if os.geteuid() != 0:
            return "no capabilities, no new privileges"

        def read_as_nobody() -> None:
            become(NOBODY)
            for path in (os.__file__, *self.setup.packages):
                os.close(os.open(path, os.O_RDONLY))

        why = "its user is not known here" if self.on("user") and not self.has_nobody else ""
        why = why or attempt(read_as_nobody)
        if why:
            return f"no capabilities, no new privileges; still root, as nobody: {why}"
        self.identity = NOBODY
        return "nobody, no capabilities, no new privileges"

    def _find_limits(self) -> str:
        found = "memory, processor, files, core"
        if not self.on("user") or linux_version() < (5, 14):
            return f"{found}; threads only by memory (Linux 5.14 counts them by user namespace)"
        self.other_threads = 2 if self.identity is None else 0  # this process and the outer one
        return f"{found}, threads"

    def address_bytes(self) -> int:
        """Address space of the calling process; once, before anything is forked."""
        table = os.open("self/statm", os.O_RDONLY, dir_fd=self._proc)
        os.close(self._proc)
        with open(table) as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def rules(self) -> kernel.Landlock:
        """Landlock's rules for the next snippet: /tmp is another folder every time."""
        rules = kernel.Landlock()
        read = kernel.READ_FILE | kernel.READ_DIR
        if self.on("mount"):
            rules.allow("/", read)
            write = read | kernel.WRITE_FILE | kernel.TRUNCATE | kernel.REFER
            make = kernel.MAKE_REG | kernel.MAKE_DIR | kernel.MAKE_SYM
            rules.allow(root.TEMPORARY, write | make | kernel.REMOVE_DIR | kernel.REMOVE_FILE)
        else:
            for path in (*self.folders, *self.setup.packages):
                rules.allow(path, read)
        for device in root.DEVICES:
            if os.path.exists(device):
                rules.allow(device, kernel.READ_FILE | kernel.WRITE_FILE)
        return rules

    def _try_landlock(self) -> str:
        version = kernel.landlock_version()
        rules = self.rules()
        why = attempt(rules.enforce)
        rules.close()
        if why:
            raise OSError(why)
        covered = (
            "files" + (", TCP" if version >= 4 else "") + (", signals" if version >= 6 else "")
        )
        return f"version {version}: {covered}"

    def _try_filter(self) -> str:
        own_root = self.on("mount")
        program = syscall_filter.program(1, report=False, own_root=own_root)
        if why := attempt(lambda: kernel.install_filter(program, listen=False)):
            raise OSError(why)
        program = syscall_filter.program(1, report=True, own_root=own_root)
        self.reports = not attempt(lambda: kernel.install_filter(program, listen=True))
        told = "reported" if self.reports else "refused without a report (Linux 5.6 reports)"
        return f"a list of system calls allowed, others {told}"


def enter_user_namespace(maps: tuple[str, str]) -> None:
    """Leave for a user namespace with these maps of users and groups.

    A process that stays outside writes them: only there it has the right to.
    """
    read, write = os.pipe()
    process = os.getpid()
    writer = os.fork()
    if writer == 0:
        status = 1
        try:
            os.close(write)
            if os.read(read, 1):
                if os.geteuid() != 0:
                    _write(f"/proc/{process}/setgroups", "deny")
                _write(f"/proc/{process}/uid_map", maps[0])
                _write(f"/proc/{process}/gid_map", maps[1])
                status = 0
        finally:
            os._exit(status)
    os.close(read)
    try:
        kernel.unshare("user")
        os.write(write, b"x")
    finally:
        os.close(write)
        _, status = os.waitpid(writer, 0)
    if status:
        raise OSError("the maps of the new user namespace could not be written")


def become(identity: int | None) -> None:
    """Give up every privilege; with an identity, be that user and no other group."""
    if identity is not None:
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    kernel.drop_capabilities()


def linux_version() -> tuple[int, int]:
    numbers = platform.release().split("-")[0].split(".")
    return int(numbers[0]), int(numbers[1])


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
