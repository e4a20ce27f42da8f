"""Our end of one worker: start it, hand it a snippet, read what the snippet prints.

The bytes of a snippet's output come straight from its pipes, at most as many as are kept. How it
ended comes from the worker, which never sees those bytes.
"""

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from megatron_math.sandbox.isolation import Layer, Setup

START_SECONDS = 120.0
# A worker keeps the wall clock itself; one that is silent for so much longer is itself stuck.
GRACE_SECONDS = 10.0
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # an arena takes 64 MB of a limited address space
}

# Our package by its name alone: what it does when it is imported is not for a snippet to inherit.
MAIN = """
import sys, types
package = sys.modules["megatron_math"] = types.ModuleType("megatron_math")
package.__path__ = [{package!r}]
from megatron_math.sandbox.zygote import main
main()
"""


class WorkerGoneError(Exception):
    """The worker's process ended, was killed or stopped answering."""


@dataclass(frozen=True)
class Ended:
    """What came of one snippet: the worker's account, and the first bytes of its output."""

    account: dict[str, Any]
    stdout: bytes
    stderr: bytes
    is_cut: bool


def find_packages(names: Iterable[str]) -> tuple[str, ...]:
    """Folders and files of installed packages, with the libraries and the metadata beside them."""
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        top = Path(spec.origin)
        top = top.parent if spec.submodule_search_locations else top
        beside = (*top.parent.glob(f"{name}.libs"), *top.parent.glob(f"{name}-*.dist-info"))
        found += [str(path) for path in (top, *sorted(beside))]
    return tuple(found)


class Worker:
    """One worker's processes. `layers` waits until they are isolated and have loaded modules."""

    def __init__(self, setup: Setup, output_bytes: int) -> None:
        self._setup, self._output_bytes = setup, output_bytes
        self._greeting: dict[str, Any] | None = None
        self._number = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        main = MAIN.format(package=str(Path(__file__).resolve().parents[1]))
        kept = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", main],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=ENVIRONMENT | kept,
            )
        self._socket.send(json.dumps(asdict(setup)).encode())

    def greeting(self) -> dict[str, Any]:
        """What the worker says of itself once it is ready: layers, missing, address_bytes."""
        if self._greeting is None:
            self._greeting = self._receive(time.monotonic() + START_SECONDS)
        return self._greeting

    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(**layer) for layer in self.greeting()["layers"])

    def run(self, code: bytes) -> Ended:
        """Run one snippet. Raises WorkerGoneError when the worker itself is lost."""
        self.greeting()
        self._number += 1
        source = os.memfd_create("code")
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        outputs = Outputs([out_read, err_read], self._output_bytes)
        try:
            try:
                _write_all(source, code)
                os.lseek(source, 0, os.SEEK_SET)
                message = json.dumps({"run": self._number}).encode()
                socket.send_fds(self._socket, [message], [source, out_write, err_write])
            except OSError as error:
                self._give_up(str(error))
            finally:
                for descriptor in (source, out_write, err_write):
                    os.close(descriptor)
            account = self._follow(outputs)
            assert account["run"] == self._number, account
            outputs.read_rest()
        finally:
            os.close(out_read)
            os.close(err_read)
        stdout, stderr = (bytes(text) for text in outputs.texts.values())
        return Ended(account, stdout, stderr, outputs.is_cut)

    def _follow(self, outputs: "Outputs") -> dict[str, Any]:
        deadline = time.monotonic() + self._setup.wall_seconds + GRACE_SECONDS
        poll = select.poll()
        for descriptor in (*outputs.texts, self._socket.fileno()):
            poll.register(descriptor, select.POLLIN)
        is_told = False
        while True:
            left = deadline - time.monotonic()
            ready = [descriptor for descriptor, _ in poll.poll(max(0.0, left * 1000))]
            if not ready:
                self._give_up(f"silent for {GRACE_SECONDS:g} s after the time limit")
            if self._socket.fileno() in ready:
                return self._receive(deadline)
            for descriptor in ready:
                if not outputs.read(descriptor):
                    poll.unregister(descriptor)
            if outputs.is_cut and not is_told:
                is_told = True
                with contextlib.suppress(OSError):
                    self._socket.send(json.dumps({"kill": self._number}).encode())

    def _receive(self, deadline: float) -> dict[str, Any]:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            packet = self._socket.recv(1 << 16)
            self._socket.settimeout(None)
        except OSError as error:
            self._give_up(f"no answer: {error}")
        if not packet:
            self._give_up("its process ended")
        answer: dict[str, Any] = json.loads(packet)
        if "error" in answer or "broken" in answer:
            self._give_up(answer.get("error") or answer["broken"])
        return answer

    def _give_up(self, reason: str) -> NoReturn:
        self.close()
        raise WorkerGoneError(reason)

    def close(self) -> None:
        """End the worker's processes, and with them whatever runs in their pid namespace."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Outputs:
    """The reading ends of a snippet's pipes: the first bytes of each are kept."""

    def __init__(self, descriptors: list[int], bytes_at_most: int) -> None:
        self.texts = {descriptor: bytearray() for descriptor in descriptors}
        self.is_cut = False
        self._at_most = bytes_at_most
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)

    def read(self, descriptor: int) -> bool:
        """Take what is there; False at the end, or when enough has been read."""
        text = self.texts[descriptor]
        try:
            chunk = os.read(descriptor, min(1 << 16, self._at_most + 1 - len(text)))
        except BlockingIOError:
            return True
        text += chunk
        if len(text) > self._at_most:
            del text[self._at_most :]
            self.is_cut = True
            return False
        return bool(chunk)

    def read_rest(self) -> None:
        """What is left in the pipes of a process that has ended."""
        for descriptor, text in self.texts.items():
            length = -1
            while length < len(text) <= self._at_most and not self.is_cut:
                length = len(text)
                self.read(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
