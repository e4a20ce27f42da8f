"""A process that has loaded what a rank needs, and forks the programs that tests start.

Loading takes seconds of processor time for each process, a step of a test's model milliseconds.
`Loaded.start` takes a command line of Python as subprocess would; its fork runs the same module or
script with an environment, a session and outputs of its own. Local processes that it starts in turn
(`device.start.start_processes`) are forks, too. Tests of starting itself use real processes.

Run as a program it is the process that forks: one request after another comes over the socket whose
descriptor is the only argument, with the outputs and a socket for the exit code.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from megatron_math.device import start as start_module
from megatron_math.device.start import die_with, kill_all, passing_signals_to, wait_for_all

MOST_REQUEST_BYTES = 1 << 20
ALSO_LOADED = ("megatron_math.cli", "megatron_math.train.__main__", "torch.utils.tensorboard")


class Forked:
    """A program that runs in a fork, with what of subprocess.Popen tests need."""

    def __init__(self, pid: int, end: socket.socket, output: BinaryIO | None) -> None:
        self.pid, self.returncode = pid, None
        self.stderr = output
        self._end = end

    def poll(self) -> int | None:
        return self._take(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._take(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[None, bytes]:
        """(None, standard error), read to its end: until the last process that holds it is gone."""
        said = b""
        if self.stderr is not None and not self.stderr.closed:
            deadline = None if timeout is None else time.monotonic() + timeout
            with selectors.DefaultSelector() as selector:
                selector.register(self.stderr, selectors.EVENT_READ)
                while True:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    if not selector.select(left):
                        raise subprocess.TimeoutExpired("a fork", timeout or 0, stderr=said)
                    part = os.read(self.stderr.fileno(), 1 << 16)
                    if not part:
                        break
                    said += part
            self.stderr.close()
        self.wait(timeout)
        return None, said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _take(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._end.settimeout(timeout)
            try:
                self.returncode = int(self._end.recv(16))
            except (BlockingIOError, TimeoutError):
                return None
            self._end.close()
        return self.returncode


class Loaded:
    """The tests' end of the process that forks."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        assert self._requests.recv(16) == b"loaded"

    def close(self) -> None:
        self._requests.close()
        self._process.wait(30)

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        new_session: bool = True,
    ) -> Forked:
        """`command`: [python, script, ...] or [python, -m, module, ...].

        stdout, stderr: None (as here), subprocess.DEVNULL or a descriptor; stderr may be
        subprocess.PIPE, stdout then subprocess.STDOUT, which is the same pipe.
        """
        assert command[0] == sys.executable, command
        request = {
            "arguments": list(command[1:]),
            "environment": dict(os.environ if env is None else env),
            "folder": os.getcwd(),
            "new_session": new_session,
        }
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read = write = None
        with theirs, open(os.devnull, "wb") as nothing:
            if stderr == subprocess.PIPE:
                read, write = os.pipe()
            places = {None: 2, subprocess.DEVNULL: nothing.fileno(), subprocess.PIPE: write}
            errors = places.get(stderr, stderr)
            places |= {None: 1, subprocess.STDOUT: errors}
            outputs = [places.get(stdout, stdout), errors]
            message = json.dumps(request).encode()
            assert len(message) < MOST_REQUEST_BYTES
            socket.send_fds(self._requests, [message], [theirs.fileno(), *outputs])
            pid = int(mine.recv(16))
            if write is not None:
                os.close(write)
        return Forked(pid, mine, None if read is None else os.fdopen(read, "rb", buffering=0))

    def start_processes(
        self,
        argv: Sequence[str],
        num_processes: int,
        env: Mapping[str, str] | None = None,
        *,
        grace_seconds: float = 30.0,
    ) -> int:
        """`device.start.start_processes`, with forks."""
        shared = start_module.rank_environment(num_processes, env)
        children: list[Any] = []
        with passing_signals_to(children) as passed:
            try:
                for rank in range(num_processes):
                    own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                    children.append(self.start(argv, env=own, new_session=False))
                return wait_for_all(children, grace_seconds, passed)
            finally:
                kill_all(children)


@functools.cache
def loaded() -> Loaded:
    """The one of this process, started at its first use."""
    found = Loaded()
    atexit.register(found.close)
    return found


def start_forks(
    argv: Sequence[str],
    num_processes: int,
    env: Mapping[str, str] | None = None,
    *,
    grace_seconds: float = 30.0,
) -> int:
    """`device.start.start_processes` inside a fork: what it starts are forks of it."""
    from megatron_math.device.standby import Fork

    shared = start_module.rank_environment(num_processes, env)
    children: list[Any] = []
    bind = die_with(os.getpid())
    with passing_signals_to(children) as passed:
        try:
            for rank in range(num_processes):
                own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                pid = os.fork()
                if pid == 0:
                    _be(list(argv[1:]), own, bind, new_session=False)
                children.append(Fork(pid))
            return wait_for_all(children, grace_seconds, passed)
        finally:
            kill_all(children)


def _be(
    arguments: list[str], environment: Mapping[str, str], bind: Any, *, new_session: bool
) -> NoReturn:
    """What a fork does, to its end: the program."""
    code = 1
    try:
        bind()
        if new_session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        for number in (*start_module.PASSED_ON, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.environ.clear()
        os.environ.update(environment)
        if "RANK" in environment:
            Path("/proc/self/comm").write_text(f"rank {environment['RANK']}")
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.modules.pop(arguments[1], None)  # it may be loaded, and is now to be run
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - a fork must not come back from here
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(requests: socket.socket) -> None:
    """Fork for every request until the other end is gone; tell each fork's end."""
    ends: dict[int, socket.socket] = {}
    bind = die_with(os.getpid())
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes)
    gc.collect()
    gc.freeze()  # or every fork would copy what a collection writes into each object
    requests.send(b"loaded")
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == woken:
                    os.read(woken, 1 << 12)
                    continue
                message, fds, _, _ = socket.recv_fds(requests, MOST_REQUEST_BYTES, 3)
                if not message:
                    return
                request = json.loads(message)
                pid = os.fork()
                if pid == 0:
                    os.dup2(fds[1], 1)
                    os.dup2(fds[2], 2)
                    for number in (*fds, woken, wakes, requests.fileno()):
                        os.close(number)
                    for end in ends.values():
                        end.close()
                    signal.set_wakeup_fd(-1)
                    os.chdir(request["folder"])
                    _be(request["arguments"], request["environment"], bind,
                        new_session=request["new_session"])  # fmt: skip
                ends[pid] = socket.socket(fileno=fds[0])
                os.close(fds[1])
                os.close(fds[2])
                ends[pid].send(str(pid).encode())
            for pid in list(ends):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    # Who gave up waiting does not take the forks of others along.
                    with ends.pop(pid) as end, contextlib.suppress(BrokenPipeError):
                        end.send(str(code).encode())


def main() -> None:
    from megatron_math.device.standby import leave_gpu_alone, unfit
    from megatron_math.train import run as run_module
    from megatron_math.train.standby import LOADED

    requests = socket.socket(fileno=int(sys.argv[1]))
    die_with(os.getppid())()
    leave_gpu_alone()
    for name in (*LOADED, *ALSO_LOADED):
        importlib.import_module(name)
    assert unfit() is None, unfit()
    start_module.start_processes = run_module.start_processes = start_forks
    serve(requests)


if __name__ == "__main__":
    main()
    os._exit(0)
