"""The life of one forked process that runs one snippet.

Until `run` everything here is ours; from then on nothing that this process says is trusted. It
puts on what is left of the layers, in the order in which each still allows the next.
"""

import atexit
import builtins
import contextlib
import linecache
import os
import resource
import signal
import sys
import threading
import traceback
import types
from typing import NoReturn

from megatron_math.sandbox import kernel, syscall_filter
from megatron_math.sandbox.isolation import Isolation, become

NAME = "snippet.py"
IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}  # by every Python, which raises OSError instead
OPEN_FILES = 64
STACK_BYTES = 8 << 20
# What this process writes to its notes. READY is followed by the number of the listener; after it
# notes come from the snippet, and are believed in nothing but that it ran out of memory.
READY, BROKEN, MEMORY = b"R", b"!", b"m"
NO_LISTENER = 255
PARTS = ("isolation", "kernel", "root", "snippet", "syscall_filter", "syscalls", "zygote")
OURS = ("megatron_math", "megatron_math.sandbox", *(f"megatron_math.sandbox.{p}" for p in PARTS))


def live(
    isolation: Isolation,
    rules: kernel.Landlock | None,
    code_read: int,
    out_write: int,
    err_write: int,
    note_write: int,
    go_read: int,
) -> NoReturn:
    """Never returns. note_write: to the process that forked this one; go_read: from it."""
    try:
        os.setsid()
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        code = _read_all(code_read)
        _close_all_but(note_write, go_read, *([rules.descriptor] if rules else []))
        if isolation.on("mount"):
            os.chdir("/tmp")
        _obey_signals()
        _forget_ours()
        _isolate(isolation, rules, note_write, go_read)
    except BaseException as error:  # noqa: BLE001 - reported; the snippet does not run
        with contextlib.suppress(OSError):
            os.write(note_write, BROKEN + f"{type(error).__name__}: {error}"[:500].encode())
        os._exit(1)
    status = 1
    try:
        status = run(code, note_write)
    finally:
        os._exit(status)


def _obey_signals() -> None:
    """As in a fresh interpreter: whoever started us (nohup, a shell's &) may ignore some."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - IGNORED:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _isolate(
    isolation: Isolation, rules: kernel.Landlock | None, note_write: int, go_read: int
) -> None:
    if isolation.on("rlimits"):
        _limit(isolation)
    if isolation.on("identity"):
        become(isolation.identity)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or nobody can take our listener
    if rules is not None:
        rules.enforce()
        rules.close()
    listener = NO_LISTENER
    if isolation.on("seccomp"):
        program = syscall_filter.program(
            os.getpid(), report=isolation.reports, own_root=isolation.on("mount")
        )
        descriptor = kernel.install_filter(program, listen=isolation.reports)
        listener = descriptor if isolation.reports else NO_LISTENER
    os.write(note_write, READY + bytes([listener]))
    if not os.read(go_read, 1):
        raise OSError("the process that watches is gone")
    if listener != NO_LISTENER:
        os.close(listener)  # whoever holds it can allow anything
    os.close(go_read)


def _limit(isolation: Isolation) -> None:
    setup = isolation.setup
    processor_seconds = max(1, round(setup.cpu_seconds + 0.499))
    limits = {
        resource.RLIMIT_AS: setup.memory_bytes,
        resource.RLIMIT_STACK: STACK_BYTES,
        resource.RLIMIT_CORE: 1,  # 0 would still start a program that the system hands cores to
        resource.RLIMIT_FSIZE: setup.disk_bytes,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    if isolation.other_threads is not None:
        limits[resource.RLIMIT_NPROC] = setup.threads + isolation.other_threads
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (processor_seconds, processor_seconds + 1))


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _close_all_but(*kept: int) -> None:
    first = 3
    for number in sorted(kept):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, 1 << 16)


def _forget_ours() -> None:
    # by a short list: to look through all modules is to copy the pages that all names lie in
    for name in OURS:
        sys.modules.pop(name, None)


def run(code: bytes, note_write: int) -> int:
    """Run it as a script; the exit status that Python would give."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = [NAME]
    lines = code.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[NAME] = (len(code), None, lines, NAME)
    if "numpy.random" in sys.modules:  # or all snippets would draw the same numbers
        sys.modules["numpy.random"].seed(int.from_bytes(os.urandom(4), "little"))
    try:
        status = 0
        exec(compile(code, NAME, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as end:
        status = _exit_status(end.code)
    except BaseException as error:  # noqa: BLE001 - printed, as Python does
        status = 1
        if isinstance(error, MemoryError):
            with contextlib.suppress(OSError):
                os.write(note_write, MEMORY)
        trace = error.__traceback__
        error.__traceback__ = trace.tb_next if trace else None  # without this file
        _show(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for its threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as end:
        status = _exit_status(end.code)
    except BaseException:  # noqa: BLE001 - what Python answers when its output is gone
        status = status or 120
    return status


def _show(error: BaseException) -> None:
    """The traceback with the snippet's own lines, which Python's own hook looks for in a file."""
    if sys.excepthook is sys.__excepthook__:
        with contextlib.suppress(Exception):
            traceback.print_exception(error)
            return
    sys.excepthook(type(error), error, error.__traceback__)


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - as Python does for sys.exit("text")
    return 1
