"""A SLURM of two nodes on this machine: munged, slurmctld and two slurmd on loopback.

Needs Debian's packages slurm-wlm and munge. Everything (key, sockets, state, logs) lies in one
temporary folder, the daemons run as the current user, and each is ended by its process id.

    python tests/slurm/two_nodes.py sinfo        # any command, with the cluster running around it
    python tests/slurm/two_nodes.py bash         # or a shell to play in
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
_daemons: list[subprocess.Popen[bytes]] = []
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every user's PATH

CONF = """\
ClusterName=two_nodes
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its credentials have expired: 120 s if this is left out.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
# A node that says nothing for so long is down, and its jobs are requeued: 300 s if left out.
SlurmdTimeout=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n1} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n2} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that two_nodes() needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]


@contextlib.contextmanager
def two_nodes() -> Iterator[dict[str, str]]:
    """Start the cluster, yield the environment that sbatch and the others need, end it all.

    The folder of logs and state is removed unless something went wrong inside; then its name is
    printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: socket names end at 108 characters
    env = {**_clean_environment(), "PATH": _search_path(), "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _configure(folder)
        _start(_daemons, folder, env, [
            "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        ])  # fmt: skip
        _wait_until(lambda: (folder / "munge.socket").exists(), "munged's socket")
        _start(_daemons, folder, env, ["slurmctld", "-D"])
        for node in ("n1", "n2"):
            _start(_daemons, folder, env, ["slurmd", "-D", "-N", node])
        _wait_until(lambda: _idle_nodes(env) == 2, "two idle nodes")
        yield env
    except BaseException:
        print(f"the cluster's logs are kept in {folder}", file=sys.stderr)
        raise
    else:
        _end(_daemons)
        shutil.rmtree(folder)
    finally:
        _end(_daemons)


def start_node(env: dict[str, str], node: str) -> None:
    """A slurmd in the place of one that was killed; it ends with the cluster."""
    _start(_daemons, Path(env["SLURM_CONF"]).parent, env, ["slurmd", "-D", "-N", node])


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":" + _SBIN


def _clean_environment() -> dict[str, str]:
    """Ours, without what an outer SLURM or launcher may have left in it."""
    ours = ("SLURM_", "SBATCH_", "SRUN_", "MASTER_", "TORCHELASTIC_")
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {n: v for n, v in os.environ.items() if not n.startswith(ours) and n not in ranks}


def _configure(folder: Path) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.chmod(0o600)
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "state").mkdir()
    controller_port, port_n1, port_n2 = _free_ports(3)
    (folder / "slurm.conf").write_text(
        CONF.format(
            host=socket.gethostname().split(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=folder,
            controller_port=controller_port,
            port_n1=port_n1,
            port_n2=port_n2,
        )
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _start(
    daemons: list[subprocess.Popen[bytes]], folder: Path, env: dict[str, str], argv: list[str]
) -> None:
    with (folder / "daemons.log").open("ab") as log:
        program = shutil.which(argv[0], path=env["PATH"]) or argv[0]
        daemons.append(
            subprocess.Popen(
                [program, *argv[1:]], env=env, cwd=folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )
        )  # fmt: skip


def _idle_nodes(env: dict[str, str]) -> int:
    shown = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"],
        env=env, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return len(set(shown.split()))


def _wait_until(condition, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} after {seconds:.0f} s")
        time.sleep(0.2)


def _end(daemons: list[subprocess.Popen[bytes]]) -> None:
    """End the daemons by process id, in the order against which they were started."""
    while daemons:
        daemon = daemons.pop()
        daemon.terminate()
        try:
            daemon.wait(timeout=15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end the daemons
    if missing():
        sys.exit(f"not installed: {', '.join(missing())} (Debian: slurm-wlm and munge)")
    with two_nodes() as environment:
        returncode = subprocess.run(sys.argv[1:] or ["sinfo"], env=environment).returncode
    sys.exit(returncode)
