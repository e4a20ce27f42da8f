"""A worker's own process: isolated before any untrusted code, it forks one child per snippet.

`main` runs in a process of its own, with a socket as standard input. The outer of the two
processes leaves the namespaces and waits; the inner one is pid 1 of what is new, has the common
modules loaded and serves. Messages are JSON, one a packet: `run` comes with three descriptors
(code, standard output, standard error), `kill` ends the snippet of that number. What a snippet
reads and writes never passes through this process: its memory is what every snippet starts with.
"""

import contextlib
import errno
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from megatron_math.sandbox import kernel, root, snippet, syscall_filter
from megatron_math.sandbox.isolation import Isolation, Setup

MESSAGE_BYTES = 1 << 16
# A snippet that goes on trying what is refused ends after so many times.
REFUSALS_AT_MOST = 100


def main() -> None:
    """Serve the sandbox at the other end of standard input until it closes."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    try:
        setup = Setup(**json.loads(control.recv(MESSAGE_BYTES)))
        _be_first_to_go()
        isolation = Isolation(setup)
        isolation.leave_namespaces()
        inner = os.fork()
        if inner == 0:
            Zygote(control, isolation).serve()
    except Exception as error:  # noqa: BLE001 - told to the sandbox, which raises it
        text = f"{type(error).__name__}: {error}"
        control.send(json.dumps({"error": text[:2000]}).encode())
        os._exit(1)
    control.close()
    os.waitpid(inner, 0)
    os._exit(0)


def _be_first_to_go() -> None:
    """When the machine has no memory left: rather this than what it serves."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


class Zygote:
    """The serving process. Its fields are what it knows of the snippet that runs now."""

    def __init__(self, control: socket.socket, isolation: Isolation) -> None:
        self._control = control
        self._isolation = isolation

    def serve(self) -> None:
        """Never returns."""
        status = 1
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            missing = self._load()
            self._isolation.settle()
            if self._isolation.on("mount"):
                root.renew_temporary(self._isolation.setup.disk_bytes, first=True)
            address_bytes = self._isolation.address_bytes()
            layers = [vars(layer) for layer in self._isolation.layers.values()]
            greeting = {"layers": layers, "missing": missing, "address_bytes": address_bytes}
            self._control.send(json.dumps(greeting).encode())
            while self._serve_one():
                pass
            status = 0
        except Exception as error:  # noqa: BLE001 - told to the sandbox, which raises it
            text = f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):
                self._control.send(json.dumps({"error": text[:2000]}).encode())
        finally:
            os._exit(status)

    def _load(self) -> list[str]:
        """Import what snippets usually import; the names that are not there."""
        packages = self._isolation.setup.packages
        if self._isolation.on("mount"):
            packages = tuple(root.seen_at(package) for package in packages)
        folders = [os.path.dirname(path) for path in packages]
        sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
        os.environ.pop("LD_LIBRARY_PATH", None)
        missing = []
        for name in self._isolation.setup.preload:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                missing.append(name)
        gc.collect()
        gc.freeze()  # or every child copies what the collector would touch
        return missing

    def _serve_one(self) -> bool:
        """One message, one snippet; False when the sandbox is gone."""
        packet, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
        if not packet:
            return False
        message = json.loads(packet)
        if "run" not in message:
            return True  # a `kill` for a snippet that had ended
        rules = self._isolation.rules() if self._isolation.on("landlock") else None
        note_read, note_write = os.pipe()
        go_read, go_write = os.pipe()
        child = os.fork()
        if child == 0:
            code_read, out_write, err_write = descriptors
            snippet.live(
                self._isolation, rules, code_read, out_write, err_write, note_write, go_read
            )
        for descriptor in (*descriptors, note_write, go_read):
            os.close(descriptor)
        if rules is not None:
            rules.close()
        answer: dict[str, Any]
        with Child(child, note_read, go_write) as watched:
            if why := watched.begin():
                answer = {"broken": why}
            else:
                seconds = self._isolation.setup.wall_seconds
                answer = watched.until_its_end(self._control, message["run"], seconds)
        if self._isolation.on("pid"):
            end_all_others()
        self._control.send(json.dumps(answer | {"run": message["run"]}).encode())
        if self._isolation.on("mount"):
            root.renew_temporary(self._isolation.setup.disk_bytes, first=False)
        return True


class Child:
    """The process of one snippet, seen from the one that forked it."""

    def __init__(self, pid: int, note_read: int, go_write: int) -> None:
        self._pid, self._note_read, self._go_write = pid, note_read, go_write
        self._process = os.pidfd_open(pid)
        self._listener = -1
        self._refused: dict[str, int] = {}

    def begin(self) -> str:
        """Wait until it is isolated, take its listener, let it go: "" or what went wrong."""
        note = os.read(self._note_read, 512)
        if not note.startswith(snippet.READY):
            return note[1:].decode("utf-8", "replace") or "the process ended before its snippet"
        number = note[1]
        if number != snippet.NO_LISTENER:
            self._listener = kernel.take_descriptor(self._process, number)
        os.write(self._go_write, b"x")
        return ""

    def until_its_end(
        self, control: socket.socket, number: int, limit_seconds: float
    ) -> dict[str, Any]:
        """Watch the clock, the refused system calls and the sandbox; tell how it ended."""
        started = time.monotonic()
        stopped = ""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        poll.register(control, select.POLLIN)
        if self._listener >= 0:
            poll.register(self._listener, select.POLLIN)
        while not stopped:
            left = started + limit_seconds - time.monotonic()
            ready = dict(poll.poll(max(0.0, left * 1000))) if left > 0 else {}
            if self._process in ready:
                break
            if left <= 0:
                stopped = "wall"
            elif control.fileno() in ready:
                stopped = self._told(control, number)
            elif self._listener in ready and not ready[self._listener] & select.POLLIN:
                poll.unregister(self._listener)
            elif self._listener in ready and self._refuse() > REFUSALS_AT_MOST:
                stopped = "refusals"
        status, usage = self._reap()
        return {
            "status": status,
            "stopped": stopped,
            "refused": list(self._refused),
            "note": self._last_note(),
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
        }

    def _told(self, control: socket.socket, number: int) -> str:
        packet = control.recv(MESSAGE_BYTES)
        if not packet:
            return "asked"  # the sandbox is gone; the next look at the socket ends this process
        return "asked" if json.loads(packet).get("kill") == number else ""

    def _refuse(self) -> int:
        """Answer one report; how many there were."""
        try:
            identity, call = kernel.hear(self._listener)
            kernel.deny(self._listener, identity, errno.EPERM)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):  # it died meanwhile
                raise
            return 0
        name = syscall_filter.name_of(call)
        self._refused[name] = self._refused.get(name, 0) + 1
        return sum(self._refused.values())

    def _reap(self) -> tuple[int, Any]:
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        self._pid = 0
        return status, usage

    def _last_note(self) -> str:
        os.set_blocking(self._note_read, False)
        try:
            return os.read(self._note_read, 16).decode("latin-1")
        except BlockingIOError:
            return ""

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            self._reap()
        for descriptor in (self._process, self._note_read, self._go_write, self._listener):
            if descriptor >= 0:
                os.close(descriptor)


def end_all_others() -> None:
    """Kill and reap whatever a snippet left behind in this pid namespace."""
    assert os.getpid() == 1, "outside a pid namespace of its own this would end everything"
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
