"""Run untrusted Python, one isolated process a snippet.

`with PythonSandbox(workers=2) as sandbox: sandbox.run_all(snippets)` gives one `Result` each, in
their order. Workers are prepared once: namespaces of their own, a read-only root, modules loaded;
a snippet is a fork of one with nothing but its own process, a system-call filter and its limits.
docs/sandbox.md says what is promised, and what a snippet can say falsely of itself.
"""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.sandbox.isolation import LAYERS, Layer, Setup
from megatron_math.sandbox.worker import Ended, Worker, WorkerGoneError, find_packages

Outcome = Literal["ok", "error", "timeout", "memory", "output", "killed", "forbidden"]
ACCEPTED = "I accept that this code can do all that I can"
PACKAGES = ("numpy", "sympy", "mpmath")
PRELOAD = (
    "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "fractions",
    "functools", "heapq", "itertools", "json", "math", "mpmath", "numpy", "numpy.random",
    "operator", "random", "re", "statistics", "string", "sympy", "tempfile", "time", "traceback",
    "typing",
)  # fmt: skip
# What a snippet needs beside the modules that are loaded: its stack, a first arena, some space.
LEAST_SPARE_BYTES = 48 << 20


@dataclass(frozen=True)
class Limits:
    """Of one snippet. memory_bytes: address space, loaded modules included (about 200 MB with
    numpy and sympy); disk_bytes: all that it writes to /tmp, which is memory too; output_bytes:
    of standard output and of standard error; cpu_seconds: rounded up to whole ones."""

    wall_seconds: float = 5.0
    cpu_seconds: float = 5.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 64 << 10
    disk_bytes: int = 16 << 20
    threads: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"limits.{name} = {value}: it has to be more than 0")


@dataclass(frozen=True)
class Result:
    """What became of one snippet. Only `stdout` and `stderr` are its own words."""

    outcome: Outcome
    stdout: bytes
    stderr: bytes
    reason: str = ""
    """Why it is not ok, for people."""
    exit_status: int | None = None
    """Of a process that ended by itself."""
    refused: tuple[str, ...] = ()
    """System calls that it tried and did not get."""
    is_cut: bool = False
    """The output was longer than its limit; the snippet was ended."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class PythonSandbox:
    """A pool of isolated workers; any thread may call `run` and `run_all`.

    packages: top-level names that snippets may import beside the standard library; those that are
    not installed are left out. preload: modules loaded before the first snippet.
    unprotected: the words of `ACCEPTED` run it although layers that matter are missing.
    without: layers to leave off; only with those words.
    Raises UserError when the machine does not offer what is needed.
    """

    def __init__(
        self,
        workers: int = 1,
        limits: Limits | None = None,
        *,
        packages: Sequence[str] = PACKAGES,
        preload: Sequence[str] = PRELOAD,
        unprotected: str = "",
        without: Sequence[str] = (),
    ) -> None:
        if workers < 1:
            raise UserError(f"workers = {workers}: at least 1 is needed")
        if unprotected not in ("", ACCEPTED):
            raise UserError(f"unprotected = {unprotected!r}: leave it out, or write {ACCEPTED!r}")
        unknown = sorted(set(without) - set(LAYERS))
        if unknown or (without and not unprotected):
            what = f"unknown layers {unknown}" if unknown else "layers are left off"
            raise UserError(f"{what}; layers are {', '.join(LAYERS)}, and leaving one off takes "
                            f"unprotected = {ACCEPTED!r}")  # fmt: skip
        if dotted := [name for name in packages if "." in name]:
            raise UserError(f"packages {dotted}: a part of a package; name the whole of it")
        self.limits = limits or Limits()
        self._setup = Setup(
            wall_seconds=self.limits.wall_seconds,
            cpu_seconds=self.limits.cpu_seconds,
            memory_bytes=self.limits.memory_bytes,
            disk_bytes=self.limits.disk_bytes,
            threads=self.limits.threads,
            packages=find_packages(packages),
            preload=tuple(preload),
            without=tuple(without),
        )
        self._executor = ThreadPoolExecutor(workers)
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        try:
            for _ in range(workers):
                self._free.put(self._start())
            self._check(next(iter(self._workers)), unprotected)
        except BaseException:
            self.close()
            raise

    def _start(self) -> Worker:
        with self._lock:
            if self._is_closed:
                raise ValueError("the sandbox is closed")
            worker = Worker(self._setup, self.limits.output_bytes)
            self._workers.add(worker)
        return worker

    def _check(self, worker: Worker, unprotected: str) -> None:
        try:
            self.layers = worker.layers()
        except WorkerGoneError as error:
            raise UserError(f"a sandbox was asked for; its worker did not start: {error}") from None
        if why := refusal(self.layers):
            if not unprotected:
                raise UserError(why)
            log.warning("untrusted code runs with less protection: %s", why)
        taken = worker.greeting()["address_bytes"]
        if self.limits.memory_bytes < taken + LEAST_SPARE_BYTES:
            raise UserError(
                f"limits.memory_bytes = {self.limits.memory_bytes}: the loaded modules take "
                f"{taken}; ask for at least {taken + LEAST_SPARE_BYTES}, or preload less"
            )

    def run(self, snippet: str | bytes) -> Result:
        """Run one snippet as a script of its own; never raises for what it does."""
        code = snippet.encode("utf-8", "surrogatepass") if isinstance(snippet, str) else snippet
        if self._is_closed:
            raise ValueError("the sandbox is closed")
        worker = self._free.get()
        try:
            return judge(worker.run(code), self.limits)
        except WorkerGoneError as error:
            log.warning("a worker of the sandbox was replaced: %s", error)
            worker = self._replace(worker)
            return Result("killed", b"", b"", f"the worker was lost: {error}")
        except BaseException:  # an interrupt, say: the worker may be in the middle of a snippet
            worker = self._replace(worker)
            raise
        finally:
            self._free.put(worker)

    def _replace(self, worker: Worker) -> Worker:
        worker.close()
        with self._lock:
            self._workers.discard(worker)
        return self._start()

    def run_all(self, snippets: Iterable[str | bytes]) -> list[Result]:
        """Run every snippet, as many at a time as there are workers; results in their order."""
        return list(self._executor.map(self.run, snippets))

    def close(self) -> None:
        """End every process of the sandbox."""
        self._is_closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for worker in self._workers:
                worker.close()
            self._workers.clear()

    def __enter__(self) -> "PythonSandbox":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def layers() -> tuple[Layer, ...]:
    """What this machine offers, found by isolating a process as a sandbox does."""
    setup = Setup(1.0, 1.0, 1 << 30, 1 << 20, 4, packages=(), preload=(), without=())
    worker = Worker(setup, output_bytes=1)
    try:
        return worker.layers()
    except WorkerGoneError as error:
        return tuple(Layer(name, False, str(error)) for name in LAYERS)
    finally:
        worker.close()


def refusal(found: Sequence[Layer]) -> str:
    """Why nobody should run untrusted code behind these layers; "" when they suffice."""
    on = {layer.name for layer in found if layer.on}
    off = {layer.name: layer.found for layer in found if not layer.on}
    missing = [name for name in ("seccomp", "rlimits", "identity") if name not in on]
    if not on & {"mount", "landlock"}:
        missing += ["mount", "landlock"]
    if not on & {"network", "seccomp"}:
        missing.append("network")
    if not missing:
        return ""
    reasons = "; ".join(f"{name}: {off.get(name, 'not tried')}" for name in missing)
    return (
        "a sandbox for untrusted code was asked for; this machine lacks layers that matter "
        f"({reasons}). Allow user namespaces (containers: a seccomp profile that lets unshare "
        "through), or take Linux 5.13 or newer with Landlock; `megatron-math doctor` shows what "
        f"is on. To run without protection all the same: unprotected: {ACCEPTED!r}"
    )


def judge(ended: Ended, limits: Limits) -> Result:
    """The outcome, from the wait status and the worker's clock; nothing the snippet printed."""
    account = ended.account
    outcome, reason = _outcome(account, ended.is_cut, limits)
    status = account["status"]
    return Result(
        outcome=outcome,
        stdout=ended.stdout,
        stderr=ended.stderr,
        reason=reason,
        exit_status=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        refused=tuple(account["refused"]),
        is_cut=ended.is_cut,
        seconds=account["seconds"],
        cpu_seconds=account["cpu_seconds"],
        peak_bytes=account["peak_bytes"],
    )


def _outcome(account: dict[str, Any], is_cut: bool, limits: Limits) -> tuple[Outcome, str]:
    status, refused = account["status"], ", ".join(account["refused"])
    if is_cut:
        return "output", f"more than {limits.output_bytes} bytes"
    if account["stopped"] == "wall":
        return "timeout", f"longer than {limits.wall_seconds:g} s"
    if account["stopped"] == "refusals":
        return "forbidden", f"went on trying: {refused}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        is_spent = number == signal.SIGKILL and account["cpu_seconds"] >= limits.cpu_seconds
        if number == signal.SIGXCPU or is_spent:
            return "timeout", f"more than {limits.cpu_seconds:g} s of processor time"
        if number == signal.SIGSYS:
            return "forbidden", "a system call that ends the process"
        with contextlib.suppress(ValueError):
            return "killed", f"ended by {signal.Signals(number).name}"
        return "killed", f"ended by signal {number}"
    code = os.WEXITSTATUS(status)
    if code == 0:
        return "ok", ""
    if "m" in account["note"]:
        return "memory", "MemoryError"
    if refused:
        return "forbidden", f"exit status {code} after: {refused}"
    return "error", f"exit status {code}"


def run_python(sandbox: PythonSandbox, code: str, *, characters: int = 2000) -> str:
    """For a model that calls a tool: what the code printed, and the end of its traceback.

    Cut to `characters`, the end of an error first; one line says why, where it is not ok.
    """
    return for_model(sandbox.run(code), characters)


def for_model(result: Result, characters: int) -> str:
    """A result in the words of `run_python`."""
    printed = result.stdout.decode("utf-8", "replace")
    if result.outcome == "ok":
        return _cut(printed, characters)
    lines = result.stderr.decode("utf-8", "replace").rstrip().splitlines()[-5:]
    ending = "\n".join([*lines, f"[{result.outcome}: {result.reason}]"])[-characters:]
    return _cut(printed, max(0, characters - len(ending) - 1)) + ("\n" if printed else "") + ending


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    mark = "..."
    return text[: max(0, characters - len(mark))] + mark[: max(0, characters)]
