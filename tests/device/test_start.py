"""Local processes: one failure ends all, signals pass, nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from megatron_math.base.errors import EXIT_STOPPED, UserError
from megatron_math.device.start import (
    host_of,
    hosts,
    launched_ranks,
    rendezvous,
    start_processes,
)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", textwrap.dedent(code)]


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_each_process_knows_its_place(tmp_path):
    code = f"""
        import os
        names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
        with open("{tmp_path}/" + os.environ["RANK"], "w") as out:
            out.write(" ".join(os.environ[name] for name in names))
    """
    assert start_processes(python(code), 3) == 0
    said = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:4] for words in said] == [[str(r), str(r), "3", "127.0.0.1"] for r in range(3)]
    assert len({words[4] for words in said}) == 1


def test_threads_are_shared_out_unless_the_user_chose(tmp_path):
    code = f"""
        import os
        open("{tmp_path}/threads", "w").write(os.environ.get("OMP_NUM_THREADS", "none"))
    """
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    many = 2 * len(os.sched_getaffinity(0))
    start_processes(python(code), many, env)
    assert (tmp_path / "threads").read_text() == "1"
    start_processes(python(code), many, {**env, "OMP_NUM_THREADS": "7"})
    assert (tmp_path / "threads").read_text() == "7"


def test_one_failure_ends_the_others_and_gives_its_code(tmp_path):
    code = f"""
        import os, sys, time
        if os.environ["RANK"] == "1":
            while not os.path.exists("{tmp_path}/0"): time.sleep(0.01)
            sys.exit(3)
        open("{tmp_path}/0", "w").write(str(os.getpid()))
        while os.path.getsize("{tmp_path}/0") == 0: pass
        time.sleep(60)
    """
    begin = time.monotonic()
    assert start_processes(python(code), 2) == 3
    assert time.monotonic() - begin < 20
    assert not is_running(int((tmp_path / "0").read_text()))


def test_one_that_ignores_sigterm_is_killed(tmp_path):
    code = f"""
        import os, signal, sys, time
        if os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open("{tmp_path}/ready", "w").close()
            time.sleep(60)
        while not os.path.exists("{tmp_path}/ready"): time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGSEGV)
    """
    begin = time.monotonic()
    assert start_processes(python(code), 2, grace_seconds=0.2) == 128 + signal.SIGSEGV
    assert time.monotonic() - begin < 20


def test_stopped_on_request_waits_for_slow_ranks_and_yields_to_a_failure(tmp_path):
    slow = f"""
        import os, sys, time
        if os.environ["RANK"] == "1":
            time.sleep(0.4)
            open("{tmp_path}/saved", "w").close()
        sys.exit({EXIT_STOPPED})
    """
    assert start_processes(python(slow), 2) == EXIT_STOPPED
    assert (tmp_path / "saved").exists()  # it was not ended half-way
    failing = f"""
        import os, sys, time
        if os.environ["RANK"] == "1":
            time.sleep(0.2)
            sys.exit(4)
        sys.exit({EXIT_STOPPED})
    """
    assert start_processes(python(failing), 2) == 4


STARTER = """
    import sys
    from megatron_math.device.start import start_processes
    sys.exit(start_processes(sys.argv[1:], 2))
"""


def start_starter(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(STARTER), *python(code)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_every_process(tmp_path, number):
    code = f"""
        import os, signal, sys, time
        def on_signal(n, frame):
            open("{tmp_path}/got" + os.environ["RANK"], "w").write(str(n))
            sys.exit({EXIT_STOPPED})
        signal.signal({int(number)}, on_signal)
        open("{tmp_path}/ready" + os.environ["RANK"], "w").close()
        time.sleep(60)
    """
    starter = start_starter(code)
    assert wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)))
    starter.send_signal(number)
    assert starter.wait(timeout=20) == EXIT_STOPPED
    assert [(tmp_path / f"got{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2


def test_a_killed_starter_leaves_no_orphans(tmp_path):
    code = f"""
        import os, time
        name = "{tmp_path}/" + os.environ["RANK"]
        open(name + ".part", "w").write(str(os.getpid()))
        os.rename(name + ".part", name)
        time.sleep(60)
    """
    starter = start_starter(code)
    files = [tmp_path / "0", tmp_path / "1"]
    assert wait_for(lambda: all(file.exists() for file in files))
    pids = [int(file.read_text()) for file in files]
    assert all(is_running(pid) for pid in pids)
    starter.kill()
    starter.wait()
    assert wait_for(lambda: not any(is_running(pid) for pid in pids), 5.0)


def test_ranks_come_from_torchrun_or_srun_or_nowhere():
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "0"}
    assert launched_ranks(torchrun) == (3, 8, 1)
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}
    assert launched_ranks(srun) == (5, 6, 2)
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_JOB_ID": "1"}
    assert launched_ranks(batch_script) is None
    interactive = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}
    assert launched_ranks(interactive) is None
    assert launched_ranks({}) is None


@pytest.mark.parametrize(
    ("node_list", "expected"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1 n2"),
        ("gpu[009-011,12],login1", "gpu009 gpu010 gpu011 gpu12 login1"),
        ("gpu[7,9-10]", "gpu7 gpu9 gpu10"),
        (
            "rack[2-3]node[04-05],other",
            "rack2node04 rack2node05 rack3node04 rack3node05 other",
        ),
        ("a-b[1-2].cluster", "a-b1.cluster a-b2.cluster"),
    ],
)
def test_hosts_of_a_node_list(node_list, expected):
    assert hosts(node_list) == expected.split()


def test_the_host_of_a_rank_and_of_a_node(monkeypatch):
    assert host_of(0, "rank") is None
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-4]")
    assert [host_of(node, "node") for node in (0, 3, 4)] == ["n1", "n4", None]
    assert host_of(0, "rank") is None  # not in a step
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2),1,3")
    found = [host_of(rank, "rank") for rank in range(9)]
    assert found == ["n1", "n1", "n2", "n2", "n3", "n4", "n4", "n4", None]


def test_all_tasks_of_a_step_meet_at_one_place_and_two_steps_do_not():
    step = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
    assert rendezvous(step) == rendezvous({**step, "SLURM_PROCID": "1"})
    assert rendezvous(step) != rendezvous({**step, "SLURM_STEP_ID": "1"})
    assert rendezvous({**step, "MASTER_ADDR": "h", "MASTER_PORT": "5"}) == ("h", 5)


def test_an_unknown_node_is_a_sentence():
    with pytest.raises(UserError, match="export MASTER_ADDR"):
        rendezvous({"SLURM_JOB_NODELIST": "no-such-node.invalid"})
