"""Every system call in writing a checkpoint kills the writer, or fails once (strace -e inject).

    python tests/soak/checkpoint_kills.py [--every N] [--work DIR] [--sabotage]

A small job's iteration 2 is written beside its iteration 1, in processes forked from one that has
loaded everything. For every kind of call that touches files, for every number of times it is made,
and for SIGKILL, ENOSPC and EIO, the call fails once; then (1) the newest good checkpoint is
iteration 1, or iteration 2 with the bytes of an unbroken save; (2) a writer that was not killed has
written iteration 2, or has said that it could not; (3) the same save without a fault, behind the
sweep that every launch begins with, gives the bytes of the unbroken one and leaves nothing else.
Prints the faults by kind and outcome as JSON; exit code 1 at the first difference. --every: only
every N-th time of a call. --sabotage, the control: a failed save is reported as done.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.log import set_up_logging
from megatron_math.checkpoint import folders, writer
from megatron_math.checkpoint.folders import newest_good, sweep
from megatron_math.checkpoint.pieces import Piece
from megatron_math.checkpoint.saver import _lay_out

CALLS = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2"),
    *("mkdir", "unlink", "unlinkat", "rmdir", "ftruncate", "lseek", "sendfile", "close", "read"),
    *("copy_file_range", "newfstatat", "fstat", "getdents64", "ioctl"),
)
FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")


class Case:
    """Iteration 1 in a folder of checkpoints, and the job that writes iteration 2 beside it."""

    def __init__(self, save: Path) -> None:
        self.save = save
        generator = torch.Generator().manual_seed(1)
        pieces = [
            Piece("weight", (4, 16, 8), (n, 0, 0), torch.randn(1, 16, 8, generator=generator))
            for n in range(4)
        ]
        self.table, num_bytes = _lay_out(pieces)
        self.memory = bytearray(num_bytes)
        whole = torch.frombuffer(self.memory, dtype=torch.uint8)
        for piece, row in zip(pieces, self.table, strict=True):
            flat = piece.values.view(torch.uint8).flatten()
            whole[row["at"] : row["at"] + flat.numel()] = flat

    def write(self, iteration: int) -> dict[str, Any]:
        """In this process; the report."""
        launch = str(os.getpid())
        job = {
            "folder": str(folders.temporary_name(self.save, iteration, launch)),
            "rank": 0, "world": 1, "iteration": iteration, "pieces": self.table,
            "objects": {"scaling/shard_0_1": writer.as_bytes([None])},
            "seal": {
                "common": writer.as_bytes({"iteration": iteration}), "save": str(self.save),
                "files": {"data_state.json": {"iteration": iteration}}, "copies": {},
            },
        }  # fmt: skip
        return writer.carry_out(job, memoryview(self.memory))

    def digests(self, iteration: int) -> dict[str, Any]:
        return json.loads((self.save / f"iter_{iteration:07d}/complete.json").read_text())["files"]

    def start_over(self) -> None:
        """Iteration 1 alone, as at first."""
        subprocess.run(["rm", "-rf", str(self.save)], check=True)
        self.save.mkdir()
        assert self.write(1) == {"done": 1}


def write_with(case: Case, fault: str | None) -> tuple[int | None, dict[str, Any] | None]:
    """Write iteration 2 in a fork, with `fault`. Returns what signal ended it, or its report."""
    report = os.pipe()
    options = ["-o", "/dev/null", *(() if fault is None else ("-e", f"inject={fault}"))]
    with traced(case, options, report[1]) as child:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            assert os.WIFSIGNALED(status), status
            found = os.WTERMSIG(status), None
    os.close(report[1])
    if os.WIFSTOPPED(status):  # it is not traced any more
        os.kill(child, signal.SIGCONT)
        found = None, json.loads(os.read(report[0], 1 << 16))
        os.waitpid(child, 0)
    os.close(report[0])
    return found


@contextlib.contextmanager
def traced(case: Case, options: list[str], report: int) -> Iterator[int]:
    """A fork under strace that writes iteration 2, stops itself, and reports when it goes on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    child = os.fork()
    if child == 0:
        signal.sigwait([signal.SIGUSR1])
        said = json.dumps(case.write(2)).encode()
        os.kill(os.getpid(), signal.SIGSTOP)  # the report is not part of what is tried
        os.write(report, said)
        os._exit(0)
    command = ["strace", "-q", "-f", "-p", str(child), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while _tracer_of(child) != tracer.pid:
        assert tracer.poll() is None, "strace ended; may it trace here?"
    os.kill(child, signal.SIGUSR1)
    yield child
    tracer.terminate()
    tracer.wait()


def _tracer_of(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("TracerPid:")[1].split()[0])


def outcome(case: Case, unbroken: dict[str, Any], fault: str) -> str:
    """What came of one fault. AssertionError where a promise did not hold."""
    killed_by, report = write_with(case, fault)
    good = newest_good(case.save)
    assert good is not None, "no checkpoint can be used"
    assert good.iteration in (1, 2), good
    if good.iteration == 2:
        assert case.digests(2) == unbroken, "iteration 2 counts as good and is another"
    if killed_by is not None:
        assert killed_by == signal.SIGKILL, killed_by
        kind = "killed"
    elif report == {"done": 2}:
        assert good.iteration == 2, "said to be done, and is not"
        kind = "no harm"
    else:
        assert report is not None
        assert report["failed"] == 2, report
        kind = "said"
    sweep(case.save)
    assert case.write(2) == {"done": 2}
    assert case.digests(2) == unbroken, "the save after it has other bytes"
    left = sorted(path.name for path in case.save.iterdir())
    assert left == ["iter_0000001", "iter_0000002", folders.TRACKER], left
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sabotage", action="store_true")
    arguments = parser.parse_args()
    set_up_logging(quiet=True)
    torch.set_num_threads(1)
    torch.serialization.set_crc32_options(False)
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        case = Case(work / "checkpoints")
        case.start_over()
        assert write_with(case, None) == (None, {"done": 2})
        unbroken = case.digests(2)
        made = times_made(case)
        if arguments.sabotage:
            honest = writer.carry_out
            writer.carry_out = lambda job, memory: (  # type: ignore[assignment]
                honest(job, memory) and {"done": job["iteration"]}
            )
        for call in CALLS:
            for fault in FAULTS:
                for number in range(1, made[call] + 1, arguments.every):
                    case.start_over()
                    name = f"{call}:{fault}:when={number}"
                    try:
                        kind = outcome(case, unbroken, name)
                    except AssertionError as error:
                        raise SystemExit(f"{name}: {error}") from error
                    counts[f"{call} {fault.split('=')[1]}: {kind}"] += 1
    print(json.dumps({"faults": counts.total(), **dict(sorted(counts.items()))}, indent=1))


def times_made(case: Case) -> Counter[str]:
    """How often an unbroken save makes each call."""
    case.start_over()
    trace, report = case.save.parent / "trace", os.pipe()
    with traced(case, ["-o", str(trace)], report[1]) as child:
        os.waitpid(child, os.WUNTRACED)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in report:
        os.close(end)
    calls = (line.split(maxsplit=1)[1].split("(")[0] for line in trace.read_text().splitlines())
    return Counter(calls)


if __name__ == "__main__":
    sys.exit(main())
