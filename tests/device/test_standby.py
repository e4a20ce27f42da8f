"""Forked ranks: like started ones, and after a death all are forked anew."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from test_start import is_running, wait_for

from megatron_math.base.errors import EXIT_STOPPED
from megatron_math.device.standby import unfit

SCRIPT = """
    import json, os, signal, subprocess, sys, time
    from pathlib import Path
    from megatron_math.device.standby import fork_ranks
    folder, most = Path(sys.argv[1]), int(sys.argv[2])
    deaths, buried = [], []

    def again(death):
        deaths.append([death.rank, death.code, death.words])
        return len(deaths) <= most

    def wait_for(path):
        while not path.exists():
            time.sleep(0.01)

    def rank_main(tell):
        rank, life = (int(os.environ[n]) for n in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
        (folder / f"{rank}.{life}.part").write_text(str(os.getpid()))
        os.rename(folder / f"{rank}.{life}.part", folder / f"{rank}.{life}")
        both = [folder / f"{r}.{life}" for r in (0, 1)]
        for path in both:
            wait_for(path)
        BODY
        return 0

    code = fork_ranks(
        MAIN, 2, again, after_death=lambda death: buried.append(death.rank), grace_seconds=0.5
    )
    print(json.dumps([code, deaths, buried]))
"""


def start(folder: Path, body: str, most: int, main: str = "rank_main") -> subprocess.Popen[str]:
    text = textwrap.dedent(SCRIPT).replace("MAIN", main)
    script = folder / "script.py"
    script.write_text(text.replace("    BODY", textwrap.indent(textwrap.dedent(body), " " * 4)))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(most)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(folder: Path, body: str, most: int = 0) -> tuple[int, list, list]:
    """(exit code, deaths that were asked about, ranks of those that were told of after)."""
    said, errors = start(folder, body, most).communicate(timeout=30)
    assert said, errors
    return tuple(json.loads(said.splitlines()[-1]))


def test_forks_know_their_place_and_end_in_peace(tmp_path):
    body = """
        names = ["LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
        said = [os.environ[name] for name in names]
        place = [os.getpgid(0) == os.getpid(), Path("/proc/self/comm").read_text().strip()]
        (folder / f"said{rank}").write_text(json.dumps([*said, *place]))
    """
    assert outcome(tmp_path, body) == (0, [], [])
    for rank in (0, 1):
        said = json.loads((tmp_path / f"said{rank}").read_text())
        assert said == [str(rank), "2", "2", "127.0.0.1", True, f"rank {rank}"]


KILLED_ONCE = """
    if life == 0 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if life == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
"""


def test_after_a_kill_all_are_forked_again(tmp_path):
    assert outcome(tmp_path, KILLED_ONCE, most=1) == (0, [[1, -signal.SIGKILL, None]], [1])
    assert {path.name for path in tmp_path.glob("?.?")} == {"0.0", "1.0", "0.1", "1.1"}
    assert not any(is_running(int(path.read_text())) for path in tmp_path.glob("?.?"))


def test_where_nobody_wants_them_again_the_failure_is_the_end(tmp_path):
    code, deaths, buried = outcome(tmp_path, KILLED_ONCE)
    assert (code, deaths, buried) == (128 + signal.SIGKILL, [[1, -signal.SIGKILL, None]], [1])
    assert not (tmp_path / "0.1").exists()


def test_the_rank_that_knew_first_is_the_cause(tmp_path):
    body = """
        if rank == 1:
            tell(1, "error: planted")
            (folder / "told").touch()
            time.sleep(0.3)  # it takes down what it has, and its peer notices
            raise RuntimeError("planted")
        wait_for(folder / "told")
        tell(1, "error: a peer is gone")
        return 1
    """
    assert outcome(tmp_path, body) == (1, [[1, 1, "error: planted"]], [1])


def test_75_asks_for_nothing(tmp_path):
    assert outcome(tmp_path, "return 75", most=5) == (EXIT_STOPPED, [], [])
    code, deaths, _ = outcome(tmp_path, "return 2")
    assert (code, deaths[0][1:]) == (2, [2, None])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_every_fork_and_end_it_all(tmp_path, number):
    body = f"""
        def on_signal(n, frame):
            (folder / f"got{{rank}}").write_text(str(n))
            os._exit(75 if rank else 1)  # a failure after a request is no reason to go on
        signal.signal({int(number)}, on_signal)
        (folder / f"ready{{rank}}").touch()
        time.sleep(60)
    """
    starter = start(tmp_path, body, 5)
    assert wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)))
    starter.send_signal(number)
    said, errors = starter.communicate(timeout=20)
    assert said, errors
    assert json.loads(said)[:2] == [1, []]
    assert [(tmp_path / f"got{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2


def test_a_fork_that_dies_of_a_signal_while_it_loads_has_stopped(tmp_path):
    starter = start(tmp_path, "(folder / f'ready{rank}').touch()\ntime.sleep(60)", 5)
    assert wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)))
    starter.send_signal(signal.SIGUSR1)
    said, _ = starter.communicate(timeout=20)
    assert json.loads(said) == [EXIT_STOPPED, [], []]


def test_a_killed_starter_leaves_no_orphans(tmp_path):
    body = """
        (folder / f"ready{rank}").touch()
        time.sleep(60)
    """
    starter = start(tmp_path, body, 5)
    assert wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)))
    pids = [int((tmp_path / f"{rank}.0").read_text()) for rank in (0, 1)]
    assert all(is_running(pid) for pid in pids)
    starter.kill()
    starter.communicate()
    assert wait_for(lambda: not any(is_running(pid) for pid in pids), 5.0)


def test_what_a_dead_rank_started_is_gone_before_the_next_life(tmp_path):
    body = """
        if life == 0:
            if rank == 0:
                child = subprocess.Popen(["sleep", "60"])
                (folder / "child").write_text(str(child.pid))
                time.sleep(60)
            while not (folder / "child").exists() or not (folder / "child").read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        stat = Path("/proc", (folder / "child").read_text(), "stat")
        try:
            state = stat.read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        return 0 if state == "Z" else 5
    """
    code, deaths, _ = outcome(tmp_path, body, most=1)
    assert (code, len(deaths)) == (0, 1)


def test_programs_stand_in_for_forks(tmp_path):
    program = [sys.executable, "-S", "-c", "import os; raise SystemExit(int(os.environ['RANK']))"]
    said, errors = start(tmp_path, "", 0, main=repr(program)).communicate(timeout=30)
    assert said, errors
    assert json.loads(said)[:2] == [1, [[1, 1, None]]]


def test_a_process_with_threads_is_no_standby():
    code = "from megatron_math.device.standby import unfit; print(unfit())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "None\n"
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert "threads" in (unfit() or "")
    finally:
        end.set()
        thread.join()
