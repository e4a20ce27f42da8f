"""Start and find processes: N local ones, or the ranks that torchrun or srun gave us. Torch-free.

Reads the launchers' environment variables; writes nothing. Ranks that are forked, and started again
when one dies, are in `standby.py`.
"""

import contextlib
import ctypes
import functools
import glob
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Literal, Protocol

from megatron_math.base.errors import EXIT_STOPPED, UserError
from megatron_math.base.log import log

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection of a busy
# machine can sit on the port between our look and the rendezvous.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""For ranks that are all on this machine: their sockets are nobody else's business."""


def launched_ranks(
    environment: Mapping[str, str] | None = None,
) -> tuple[int, int, int] | None:
    """(rank, world, local rank) that torchrun, `start_processes` or srun gave this process.

    None outside a launcher. A SLURM step of one task counts as no launcher: it is an interactive
    shell, a batch script's own shell, or a place to start local processes from.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_PROCID" in env and tasks > 1:
        return int(env["SLURM_PROCID"]), tasks, int(env.get("SLURM_LOCALID", "0"))
    return None


def rendezvous(environment: Mapping[str, str] | None = None) -> tuple[str, int]:
    """(address, port) where the ranks meet: MASTER_ADDR/MASTER_PORT, else from the SLURM job.

    Every task of a SLURM step computes the same pair without talking to the others.
    """
    env = os.environ if environment is None else environment
    node_list = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if "MASTER_ADDR" in env:
        address = env["MASTER_ADDR"]
    elif node_list:
        address = _reachable(hosts(node_list)[0])
    else:
        address = LOOPBACK
    if "MASTER_PORT" in env:
        port = int(env["MASTER_PORT"])
    elif "SLURM_JOB_ID" in env:
        # Two steps of one job, or two jobs on shared nodes, must not meet at the same port.
        identity = int(env["SLURM_JOB_ID"]) * 7 + int(env.get("SLURM_STEP_ID", "0"))
        port = _FIRST_PORT + identity % (_LAST_PORT - _FIRST_PORT)
    else:
        port = free_port()
    return address, port


def host_of(number: int, what: Literal["rank", "node"]) -> str | None:
    """The host that SLURM gave the rank, or the node of this number. None outside SLURM."""
    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    found = hosts(nodes) if nodes else []
    if what == "rank":
        # As many tasks on each host: 4(x2),3 for 4, 4 and 3, in the order of their numbers.
        told = re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
        tasks = [int(count) for count, times in told for _ in range(int(times or 1))]
        found = [host for host, count in zip(found, tasks, strict=False) for _ in range(count)]
    return found[number] if number < len(found) else None


def hosts(node_list: str) -> list[str]:
    """Names of a SLURM node list: `gpu[09-10],login1` gives gpu09, gpu10, login1."""
    found = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", node_list.strip()):
        names = [""]
        for text, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            ends = [text] if text else [n for one in ranges.split(",") for n in _numbers(one)]
            names = [name + end for name in names for end in ends]
        found += names
    if not found:
        raise UserError(f"cannot read the SLURM node list '{node_list}'; set MASTER_ADDR")
    return found


def _numbers(given: str) -> list[str]:
    """`009-010` gives 009, 010."""
    first, _, last = given.partition("-")
    return [f"{n:0{len(first)}}" for n in range(int(first), int(last or first) + 1)]


def _reachable(host: str) -> str:
    """`host` if the resolver knows it, else the address SLURM itself uses for that node."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(host, None)
        return host
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            ["scontrol", "show", "node", host], capture_output=True, text=True, timeout=20
        ).stdout
        found = re.search(r"NodeAddr=(\S+)", shown)
        if found:
            return found.group(1)
    raise UserError(
        f"the first SLURM node '{host}' has no address that this node can resolve; "
        "export MASTER_ADDR with the address of the node that runs rank 0"
    )


def free_port() -> int:
    """A TCP port on this machine that nothing listens on now."""
    for _ in range(100):
        port = random.SystemRandom().randrange(_FIRST_PORT, _LAST_PORT)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port
    raise UserError(f"no free TCP port between {_FIRST_PORT} and {_LAST_PORT} on this machine")


def start_processes(
    argv: Sequence[str],
    num_processes: int,
    env: Mapping[str, str] | None = None,
    *,
    grace_seconds: float = 30.0,
) -> int:
    """Run `argv` in `num_processes` local processes and wait for all of them.

    Each gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, has its
    own process group, and is killed by the kernel should this process die. SIGTERM, SIGINT and
    SIGUSR1 are passed on. When one fails, the others get SIGTERM and `grace_seconds` later
    SIGKILL; after an exit with 75 (stopped on request) the others are only given the time.

    Returns 0, or the exit code of the first process that failed by itself (128 + n for signal n),
    or 75 when all that ended otherwise had stopped on request. `env` replaces the environment.
    """
    shared = rank_environment(num_processes, env)
    children: list[Process] = []
    sys.stdout.flush()
    with passing_signals_to(children) as passed:
        try:
            for rank in range(num_processes):
                children.append(
                    subprocess.Popen(
                        list(argv),
                        env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        process_group=0,
                        preexec_fn=die_with(os.getpid()),
                    )
                )
            return wait_for_all(children, grace_seconds, passed)
        finally:
            kill_all(children)


def rank_environment(num_processes: int, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the environments of all local ranks have in common; every call has another port."""
    assert num_processes >= 1, num_processes
    shared = dict(os.environ if env is None else env)
    shared.update(
        WORLD_SIZE=str(num_processes),
        LOCAL_WORLD_SIZE=str(num_processes),
        MASTER_ADDR=LOOPBACK,
        MASTER_PORT=str(free_port()),
    )
    for name, interface in LOOPBACK_INTERFACE.items():
        shared.setdefault(name, interface)
    if not os.path.exists("/dev/nvidiactl"):
        threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
        shared.setdefault("OMP_NUM_THREADS", str(threads))
    return shared


class Process(Protocol):
    """What of subprocess.Popen is needed of a local rank."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, -n for signal n; None while it runs."""

    def wait(self) -> int:
        """The same, once it has ended."""

    def send_signal(self, number: int) -> None:
        """To the process alone."""


def kill_all(children: Sequence[Process]) -> None:
    """SIGKILL to all and to what they started; returns when they are gone."""
    for child in children:
        _send(child, signal.SIGKILL)
    for child in children:
        child.wait()


def die_with(parent: int):
    """What a child does before exec: ask the kernel for SIGKILL when `parent` is gone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(128 + signal.SIGKILL)

    return in_child


@functools.cache
def bind_forks() -> None:
    """From now on, processes that this one forks die with it, like those that it starts.

    Core forks writers for every checkpoint. Without this a SIGKILL inside a save left them waiting
    for their parent for ever, with its memory and its pipes (megatron-core 0.16.1, 2026-11-21).
    """
    libc = ctypes.CDLL(None)
    forking = [0]

    def before() -> None:
        forking[0] = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != forking[0]:  # it died before the kernel knew
            os._exit(128 + signal.SIGKILL)

    os.register_at_fork(before=before, after_in_child=in_child)


def _send(child: Process, number: int) -> None:
    """Send a signal to a child that runs; SIGKILL goes to its whole group."""
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
    elif child.poll() is None:
        child.send_signal(number)


@contextlib.contextmanager
def passing_signals_to(children: list[Process]) -> Iterator[set[int]]:
    """While inside, hand SIGTERM, SIGINT and SIGUSR1 on to the children. Yields those passed on.

    Python lets only the main thread set handlers; elsewhere the caller's handlers stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield set()
        return
    passed: set[int] = set()

    def hand_on(number: int, frame: FrameType | None) -> None:
        passed.add(number)
        for child in children:
            _send(child, number)

    before = {number: signal.signal(number, hand_on) for number in PASSED_ON}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_all(
    children: Sequence[Process],
    grace_seconds: float,
    passed: set[int],
    ended_by: Callable[[], int] = lambda: signal.SIGTERM,
) -> int:
    """Poll until all have ended; end the rest after the first failure. Returns the exit code.

    passed: signals handed on. A child that died of one was still loading, and has stopped.
    ended_by: asked at the first failure for the signal that the rest gets.
    """
    result = 0
    end_by: float | None = None
    running = dict(enumerate(children))
    while running:
        for rank, child in list(running.items()):
            code = child.poll()
            if code is None:
                continue
            del running[rank]
            if code == 0 or result not in (0, EXIT_STOPPED):
                continue
            code = EXIT_STOPPED if -code in passed else code if code > 0 else 128 - code
            if code == EXIT_STOPPED and result == 0:
                result, end_by = code, time.monotonic() + 10 * grace_seconds
            elif code != EXIT_STOPPED:
                result, end_by = code, time.monotonic() + grace_seconds
                if running:
                    log.warning(
                        "process %d ended with exit code %d; ending the other %d",
                        rank,
                        code,
                        len(running),
                    )
                number = ended_by()
                for other in running.values():
                    _send(other, number)
        if end_by is not None and time.monotonic() > end_by:
            for child in running.values():
                _send(child, signal.SIGKILL)
            end_by = None
        time.sleep(0.02)
    return result


def lone_process(*, sees_gpu: bool) -> dict[str, str]:
    """Environment of a process that no launcher started, with or without the GPUs of this one.

    Its allocator takes memory in segments that grow, so that little is lost between tensors.
    """
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS")
    own = {name: value for name, value in os.environ.items() if name not in launched}
    own["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return own if sees_gpu else own | {"CUDA_VISIBLE_DEVICES": "-1"}


def gpus_here() -> int:
    """GPUs that this process may use, counted without torch; 0 on a CPU machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))
