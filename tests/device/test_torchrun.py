"""Our torchrun: USR1 reaches the ranks, 75 comes back, other failures stay failures.

torchrun itself runs in forks of what has loaded torch (loaded.py), its ranks are programs.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from loaded import Forked, loaded

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_STOPPED
from megatron_math.device.start import free_port

WAITS = """
    import os, signal, sys, time
    from pathlib import Path
    def on_signal(number, frame):
        got = [Path(sys.argv[1], "got" + rank) for rank in "01"]
        got[int(os.environ["RANK"])].touch()
        end = time.monotonic() + 30  # ranks stop together: torchrun ends one that is behind
        while not all(path.exists() for path in got) and time.monotonic() < end:
            time.sleep(0.01)
        code, *more = map(int, sys.argv[2:])
        if more and os.environ["RANK"] == "1":
            code = more[0]
            time.sleep(0 if code != 75 else 5)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)
    signal.signal(signal.SIGUSR1, on_signal)
    name = sys.argv[1] + "/ready" + os.environ["RANK"]
    Path(name + ".part").write_text(str(os.getpid()))
    os.rename(name + ".part", name)
    time.sleep(60)
"""


def start(module: str, folder: Path, *codes: int) -> Forked:
    """Two ranks that wait for SIGUSR1, then exit with the code or each with its own, rank 1 late
    with a 75; returns when both are waiting.
    """
    script = folder / "waits.py"
    script.write_text(textwrap.dedent(WAITS))
    command = [sys.executable, "-m", module, "--standalone", "--nproc-per-node=2", str(script)]
    launcher = loaded().start(
        [*command, str(folder), *map(str, codes)],
        stderr=subprocess.DEVNULL if module.startswith("torch.") else subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < end, "the ranks never came"
        time.sleep(0.05)
    return launcher


@pytest.mark.parametrize(
    ("rank_codes", "expected"),
    [
        ([EXIT_STOPPED], EXIT_STOPPED),
        ([-signal.SIGUSR1], EXIT_STOPPED),
        ([EXIT_STOPPED, EXIT_STOPPED], EXIT_STOPPED),  # torchrun ends the late one
        ([EXIT_BAD_INPUT], EXIT_BAD_INPUT),
        ([3], 1),
        ([3, EXIT_STOPPED], 1),
    ],
)
def test_usr1_reaches_every_rank_and_75_and_2_come_back(tmp_path, rank_codes, expected):
    launcher = start("megatron_math.device.torchrun", tmp_path, *rank_codes)
    launcher.send_signal(signal.SIGUSR1)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == expected, said
    assert (tmp_path / "got0").exists()
    assert (tmp_path / "got1").exists()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel sees it."""
    caught = re.search(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught.group(1), 16) >> (number - 1) & 1)


def test_usr1_stops_a_torchrun_that_waits_for_another_node(tmp_path):
    """It waits inside C++, where Python runs no handler."""
    command = [sys.executable, "-m", "megatron_math.device.torchrun", "--nnodes=2", "--node-rank=0"]
    command += ["--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    launcher = loaded().start([*command, "--nproc-per-node=1", "-m", "no_module"])
    end = time.monotonic() + 60
    while not catches(launcher.pid, signal.SIGUSR1):
        assert time.monotonic() < end, "it never listened"
        time.sleep(0.05)
    time.sleep(2)  # it has come to the rendezvous or not: the answer is the same
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGUSR1)
    assert launcher.wait(timeout=10) == EXIT_STOPPED


def test_a_node_that_never_came_is_named():
    command = [sys.executable, "-m", "megatron_math.device.torchrun", "--nnodes=2", "--node-rank=0"]
    command += ["--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    command += ["--rdzv-conf=timeout=5", "--nproc-per-node=1", "-m", "no_module"]
    env = os.environ | {"SLURM_JOB_NODELIST": "gpu[07-08]"}
    launcher = loaded().start(command, env=env, stderr=subprocess.PIPE)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert "1 of 2 nodes have not come after 5 s: node 1 of host(s) gpu08" in said.decode()


def test_plain_torchrun_dies_of_usr1_and_leaves_its_ranks_alone(tmp_path):
    """Why the module is there. If this fails, torchrun has learnt it and the module may go."""
    launcher = start("torch.distributed.run", tmp_path, EXIT_STOPPED)
    launcher.send_signal(signal.SIGUSR1)
    assert launcher.wait(timeout=60) == -signal.SIGUSR1
    for rank in (0, 1):
        assert not (tmp_path / f"got{rank}").exists()
        os.kill(int((tmp_path / f"ready{rank}").read_text()), signal.SIGKILL)


def test_plain_torchrun_calls_every_failure_1(tmp_path):
    launcher = start("torch.distributed.run", tmp_path, EXIT_STOPPED)
    for rank in (0, 1):
        os.kill(int((tmp_path / f"ready{rank}").read_text()), signal.SIGUSR1)
    assert launcher.wait(timeout=60) == 1


ENDS_ONCE = """
    import os, sys
    from pathlib import Path
    from megatron_math.device.grid import Grid
    from megatron_math.device.open import open_device
    folder, code, life = sys.argv[1], int(sys.argv[2]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    with open_device(Grid(), seed=1) as device:
        Path(folder, f"{life}.{device.rank}").write_text(str(device.from_first_rank(lambda: life)))
        if life == "0" and device.rank == 1:
            os._exit(code)
        device.barrier()
"""


@pytest.mark.parametrize("code", [3, EXIT_STOPPED])
def test_max_restarts_is_for_crashes_and_two_nodes_meet_again(tmp_path, code):
    """Two agents, whose store outlives the first ranks with all that these had written there."""
    script = tmp_path / "ends_once.py"
    script.write_text(textwrap.dedent(ENDS_ONCE))
    command = [sys.executable, "-m", "megatron_math.device.torchrun", "--nnodes=2"]
    command += ["--master-addr=127.0.0.1", f"--master-port={free_port()}", "--max-restarts=1"]
    command += ["--nproc-per-node=1"]
    agents = [
        loaded().start(
            [*command, f"--node-rank={node}", str(script), str(tmp_path), str(code)],
            stderr=subprocess.PIPE,
        )
        for node in (0, 1)
    ]
    try:
        if code == 3:
            said = [agent.communicate(timeout=100)[1] for agent in agents]
            assert [agent.returncode for agent in agents] == [0, 0], said
            assert sorted(path.name for path in tmp_path.glob("1.*")) == ["1.0", "1.1"]
        else:
            assert agents[1].wait(timeout=100) == code
            assert not list(tmp_path.glob("1.1"))
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            agent.communicate(timeout=60)
