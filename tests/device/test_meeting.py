"""Ranks of one machine listen on loopback only: read from /proc/net/tcp, not from settings."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from loaded import Forked, loaded

from megatron_math.device import meeting
from megatron_math.device.start import free_port

LISTENING = '''
import os

def listening():
    """Local addresses of this process's listening sockets, as the kernel writes them."""
    own = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in open(f"/proc/self/net/{table}").read().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                found.append(words[1].split(":")[0])
    return found
'''
RANK = (
    LISTENING
    + """
import json, sys
from pathlib import Path
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device

for _ in range(2):  # the second opening takes the next port
    with open_device(Grid(), seed=1) as device:
        device.barrier()
        found = listening()
        device.barrier()
Path(sys.argv[1], f"{device.rank}.json").write_text(json.dumps(found))
"""
)
PLAIN = (
    LISTENING
    + """
import sys
import torch.distributed as dist
dist.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
print(listening(), file=sys.stderr)
"""
)
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
ANY = {"00000000", "0" * 32}


def python(folder: Path, code: str, *arguments: str) -> list[str]:
    """The command that runs `code`: in a fork of what has loaded torch, which takes seconds."""
    script = folder / "code.py"
    script.write_text(code)
    return [sys.executable, str(script), *arguments]


def test_ranks_of_this_machine_listen_on_loopback_only(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.endswith("IFNAME")}
    assert loaded().start_processes(python(tmp_path, RANK, str(tmp_path)), 2, env) == 0
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found, "no socket was seen, so nothing was looked at"
        assert set(found) <= LOOPBACK


def test_one_process_alone_listens_on_loopback_only(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.endswith("IFNAME")}
    assert loaded().start(python(tmp_path, RANK, str(tmp_path)), env=env).wait(60) == 0
    assert set(json.loads((tmp_path / "0.json").read_text())) <= LOOPBACK


def test_torch_alone_listens_on_every_interface(tmp_path: Path) -> None:
    """The control, and why there is a store of our own."""
    command = python(tmp_path, PLAIN, f"tcp://127.0.0.1:{free_port()}")
    ((code, told),) = ends(loaded().start(command, stderr=subprocess.PIPE))
    assert code == 0, told
    assert any(address in told for address in ANY), told


MEETS = """
import datetime, os, sys, time
import torch.distributed as dist
from megatron_math.device import meeting
meeting.TOLD_EVERY = 0.5
rank, world, port, seconds = map(int, sys.argv[1:])
if rank and "READS_LATE" in os.environ:
    get = dist.TCPStore.get
    dist.TCPStore.get = lambda *given: time.sleep(2.0) or get(*given)
timeout = datetime.timedelta(seconds=seconds)
store = meeting.meeting_store("127.0.0.1", port, rank=rank, world=world, timeout=timeout)
store.set("all are there", "")
print("met")
if rank == 0:
    store.wait([f"done {other}" for other in range(1, world)])
else:
    store.set(f"done {rank}", "")
"""
OF_SLURM = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


def ends(*running: Forked) -> list[tuple[int | None, str]]:
    """Exit code and output of each."""
    told = [one.communicate(timeout=90)[1].decode() for one in running]
    return [(one.returncode, text) for one, text in zip(running, told, strict=True)]


@pytest.fixture
def meet(tmp_path: Path):
    """meet(ranks, seconds, env) -> exit code and output of each of some ranks of four."""

    def start(ranks: list[int], seconds: int, env: dict[str, str]) -> list[tuple[int | None, str]]:
        more = ["4", str(free_port()), str(seconds)]
        # Written once: another writing would empty it under a rank that reads it.
        command = python(tmp_path, MEETS)
        return ends(
            *(
                loaded().start(
                    [*command, str(rank), *more],
                    env=os.environ | env, stdout=subprocess.STDOUT, stderr=subprocess.PIPE,
                )
                for rank in ranks
            )
        )  # fmt: skip

    return start


def test_ranks_that_are_all_there_meet(meet) -> None:
    assert [(code, said.splitlines()[-1]) for code, said in meet([0, 1, 2, 3], 60, {})] == (
        [(0, "met")] * 4
    )


def test_ranks_and_hosts_that_are_missing_are_named_to_all(meet) -> None:
    for code, said in meet([0, 1], 8, OF_SLURM | {"READS_LATE": "1"}):
        assert code == 1
        assert "2 of 4 ranks have not come after 8 s: rank 2, 3 of host(s) n2" in said


def test_who_is_missing_is_unknown_without_slurm_but_for_the_rank(meet) -> None:
    ((_, said),) = meet([0], 4, {})
    assert "3 of 4 ranks have not come after 4 s: rank 1, 2, 3\n" in said


def test_a_rank_that_finds_nobody_says_where_it_looked(meet) -> None:
    ((code, said),) = meet([3], 4, OF_SLURM)
    assert code == 1
    assert re.search(r"rank 3 on \S+: no answer from 127.0.0.1:\d+ within 4 s", said)
    assert "where rank 0 of host n1 should be" in said


@pytest.mark.parametrize(
    ("address", "resolved", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("node7", "127.0.1.1", "::"),  # Debian's name of the machine itself: others cannot reach it
        ("gateway", "203.0.113.7", "::"),  # no address of this machine
    ],
)
def test_which_interface(
    address: str, resolved: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    answer = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (resolved, port)),
    ]
    monkeypatch.setattr(meeting.socket, "getaddrinfo", lambda *_, **__: answer)
    with meeting._bound(address, port) as bound:
        assert bound.getsockname()[0] in (expected, "0.0.0.0" if expected == "::" else expected)
        assert bound.getsockname()[1] == port
