"""Local ranks forked from a process that has loaded everything, and forked again when one dies.

Imports are paid once, before the first start, and no more by a restart. The process that calls
`fork_ranks` has computed nothing, started no thread and touched no GPU: in its forks a thread would
be missing, and a CUDA context could not be used. `unfit` says where that does not hold; ranks are
then programs that load for themselves. Torch-free.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from megatron_math.base.errors import EXIT_FAILED, EXIT_STOPPED
from megatron_math.device.start import (
    PASSED_ON,
    Process,
    die_with,
    kill_all,
    passing_signals_to,
    rank_environment,
    wait_for_all,
)

LONGEST_WORDS = 500
"""Characters: with them a report is written to a pipe in one piece (PIPE_BUF is 4,096 bytes)."""


@dataclass(frozen=True)
class Death:
    """The first of the ranks that ended as none should."""

    rank: int
    code: int
    """Its exit code, -n for signal n."""
    words: str | None
    """What it said before; None: nothing."""


Tell = Callable[[int, str], None]
"""(exit code, words): what a rank will end with and why, told as soon as it knows."""


def fork_ranks(
    rank_main: Callable[[Tell], int] | Sequence[str],
    num_processes: int,
    is_restarted: Callable[[Death], bool],
    *,
    after_death: Callable[[Death], None] = lambda death: None,
    grace_seconds: float = 30.0,
) -> int:
    """`start.start_processes` with forks of this process, which are `rank_main` or become it.

    Environment, process groups, signals and exit codes are as there. At the first failure of a rank
    `is_restarted` is asked, unless a stop was requested: after True the others are killed at once
    and all ranks are forked anew, after False they end as there. after_death: called when all are
    gone.
    """
    children: list[Process] = []
    if not isinstance(rank_main, Sequence):
        gc.collect()
        gc.freeze()  # or every fork would copy what a collection writes into each object
    with passing_signals_to(children) as passed:
        try:
            restarts = 0
            while True:
                life = _Life(rank_main, num_processes, restarts, is_restarted, passed)
                # A signal waits until there are ranks that can have it.
                signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
                try:
                    children[:] = [] if passed else life.forks()
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
                if not children:
                    return EXIT_STOPPED
                code = wait_for_all(children, grace_seconds, passed, life.failed)
                kill_all(children)  # what they started goes with them
                if life.death is not None:
                    after_death(life.death)
                if not life.is_restarted:
                    return code
                restarts += 1
        finally:
            kill_all(children)


_WITHOUT_CUDA = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Set to 1, torch.cuda.is_available() leaves CUDA alone, which core's modules ask while loading."""


def leave_gpu_alone() -> None:
    """For what is loaded from now on, in this process and its forks."""
    os.environ[_WITHOUT_CUDA] = "1"


def let_gpu_be_used() -> None:
    """In a fork, before it opens its device."""
    os.environ.pop(_WITHOUT_CUDA, None)


def unfit() -> str | None:
    """Why forks of this process would not do as ranks; None when they would."""
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        return f"{threads - 1} threads have been started by what was loaded"
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}") == "/dev/nvidia-uvm":
                return "CUDA has been started by what was loaded"
    return None


@dataclass
class Fork:
    """A forked process, with what of subprocess.Popen is needed of one."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        return self._taken(os.WNOHANG)

    def wait(self) -> int:
        return self._taken(0)  # type: ignore[return-value]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _taken(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class _Life:
    """All ranks, from their forks to the first death."""

    def __init__(
        self,
        rank_main: Callable[[Tell], int] | Sequence[str],
        num_processes: int,
        restarts: int,
        ask: Callable[[Death], bool],
        passed: set[int],
    ) -> None:
        self.death: Death | None = None
        self.is_restarted = False
        self._main, self._ask, self._passed = rank_main, ask, passed
        self._environment = rank_environment(num_processes)
        self._environment["TORCHELASTIC_RESTART_COUNT"] = str(restarts)  # torchrun's name for it
        self._reports, self._told = os.pipe()
        os.set_blocking(self._reports, False)
        self._forks: list[Fork] = []
        self._num = num_processes

    def forks(self) -> Sequence[Process]:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        bind = die_with(parent)
        for rank in range(self._num):
            own = {**self._environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            pid = os.fork()
            if pid == 0:
                self._be(rank, own, bind)
            with contextlib.suppress(OSError):  # it may have done so, and be gone
                os.setpgid(pid, pid)
            self._forks.append(Fork(pid))
        os.close(self._told)
        return self._forks

    def failed(self) -> int:
        """The signal for those that still run."""
        self.death = self._first_death()
        self.is_restarted = not self._passed and self._ask(self.death)
        return signal.SIGKILL if self.is_restarted else signal.SIGTERM

    def _first_death(self) -> Death:
        """A signal comes before an exception: that of a peer is how the others notice."""
        ended = {rank: code for rank, fork in enumerate(self._forks) if (code := fork.poll())}
        reports = self._read_reports()
        signalled = [rank for rank, code in ended.items() if code < 0]
        if signalled:
            rank = signalled[0]
            return Death(rank, ended[rank], None)
        if reports:
            first = reports[0]
            return Death(first["rank"], first["code"], first["words"])
        rank, code = next((r, c) for r, c in ended.items() if c != EXIT_STOPPED)
        return Death(rank, code, None)

    def _read_reports(self) -> list[dict]:
        """Of failures, in the order in which the ranks knew."""
        content = b""
        with contextlib.closing(os.fdopen(self._reports, "rb", buffering=0)) as pipe:
            while part := pipe.read(1 << 16):
                content += part
        reports = [json.loads(line) for line in content.splitlines()]
        failures = [report for report in reports if report["code"] not in (0, EXIT_STOPPED)]
        return sorted(failures, key=lambda report: report["at"])

    def _be(self, rank: int, environment: Mapping[str, str], bind: Callable[[], None]) -> NoReturn:
        """What a fork does, to its end."""
        code = EXIT_FAILED
        try:
            bind()
            os.setpgid(0, 0)
            Path("/proc/self/comm").write_text(f"rank {rank}")  # for ps, where all look alike
            for number in PASSED_ON:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
            os.environ.update(environment)
            if isinstance(self._main, Sequence):
                os.execv(self._main[0], list(self._main))
            os.close(self._reports)

            def tell(code: int, words: str) -> None:
                words = words[:LONGEST_WORDS]
                report = {"rank": rank, "at": time.monotonic(), "code": code, "words": words}
                with contextlib.suppress(OSError):
                    os.write(self._told, json.dumps(report).encode() + b"\n")

            code = self._main(tell)
        except BaseException:  # noqa: BLE001 - a fork must not come back from here
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # gloo's threads may abort a normal exit after a peer has gone
