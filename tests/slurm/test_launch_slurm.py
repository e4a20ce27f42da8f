"""`megatron-math launch` on a real SLURM of two nodes: ends, time limits, lost nodes, arrays."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slurm_jobs import Job, rows, same_numbers
from test_resume import differing, tensors, without_timing
from two_nodes import start_node

from megatron_math.base.errors import EXIT_STOPPED
from megatron_math.base.road import Road
from megatron_math.pipeline import run_road

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SITE = ["launch.nodes=2", "launch.gpus_per_node=0"]
HERE = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}  # no resolver knows n1
SLOWLY = ["train.validation_interval=1", "checkpoint.interval=4"]


@pytest.fixture
def launch(cluster: dict[str, str]):
    """launch(road, *words) -> the jobs that were submitted; they are ended with the test."""
    jobs: list[Job] = []

    def launch_jobs(road: Road, *words: str) -> list[Job]:
        done = call_launch(cluster, road, *words, "--json")
        assert done.returncode == 0, done.stderr
        numbers = json.loads(done.stdout)["jobs"]
        verb = Path(json.loads(done.stdout)["script"]).stem
        folder = road.root.resolve() / "launch"
        jobs.extend(Job(cluster, str(n), folder / f"{verb}_{n}.log") for n in numbers)
        return jobs[-len(numbers) :]

    yield launch_jobs
    for job in jobs:
        with contextlib.suppress(AssertionError):  # SLURM may have forgotten it
            job.call("scancel", "--quiet", job.number)


def call_launch(
    environment: dict[str, str], road: Road, *words: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_math.cli", "launch", str(road.yaml_path), *words]
    command += [*SITE, *road.overrides, "--runs", str(road.runs)]
    env = environment | HERE
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("shape", ["torchrun", "task"])
def test_launched_and_followed_to_its_end(shape, cluster, copy_of, alone):
    road = copy_of("runs")
    done = call_launch(cluster, road, f"launch.shape={shape}", "--follow")
    assert done.returncode == 0, done.stderr
    assert "RUNNING on n[1-2]" in done.stderr
    assert "COMPLETED" in done.stderr
    assert "2 process(es)" in done.stdout
    same_numbers(rows(road), alone)


@pytest.mark.parametrize("shape", ["torchrun", "task"])
def test_a_job_at_its_time_limit_ends_like_an_unbroken_one(shape, launch, copy_of, cluster):
    """The signal is SLURM's own. Ranks stand still until it comes, so that steps are left."""
    unbroken, road = copy_of("unbroken", "parallel.data=2"), copy_of("runs", "parallel.data=2")
    (job,) = launch(road, f"launch.shape={shape}", 'launch.time="2"', "launch.save_seconds=30")
    job.until(lambda: len(rows(road)) >= 2, "took two steps")
    name = "RANK" if shape == "torchrun" else "SLURM_PROCID"
    ranks = [p for n in "01" for p in processes(cluster, **{name: n}) if is_training(p)]
    assert len(ranks) >= 2
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    job.until(lambda: all(map(stands_still, ranks)), "stood still")
    # Before USR1 SLURM may send SIGCONT, which wakes them.
    job.until(lambda: all(usr1_waits(r) or not stands_still(r) for r in ranks), "was told to stop")
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGCONT)
    job.until(lambda: int(job.fact("Restarts")) >= 1, "was requeued")
    assert re.search(r"stopped after iteration \d+, all is saved", job.log)
    assert "exit code 75" in job.log
    assert job.until_it_ended() == "COMPLETED", job.log
    assert not list((road.root / "launch").glob("crashes*"))
    command = [sys.executable, "-m", "megatron_math.cli", "train", str(unbroken.yaml_path)]
    subprocess.run(
        [*command, *unbroken.overrides, "--runs", str(unbroken.runs)],
        env=os.environ | HERE, check=True, timeout=400,
    )  # fmt: skip
    assert differing(tensors(road), tensors(unbroken)) == []
    assert without_timing(rows(road)) == without_timing(rows(unbroken))


def is_training(process: int) -> bool:
    program, _, rest = Path(f"/proc/{process}/cmdline").read_bytes().partition(b"\0")
    return b"python" in program and b"-m\0megatron_math.train" in rest


def stands_still(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "State:\tT" in Path(f"/proc/{process}/status").read_text()
    return False


def usr1_waits(process: int) -> bool:
    """Whether SIGUSR1 is before a process that stands still."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{process}/status").read_text()
        pending = [int(mask, 16) for mask in re.findall(r"(?:Sig|Shd)Pnd:\s*(\w+)", status)]
        return any(mask >> (signal.SIGUSR1 - 1) & 1 for mask in pending)
    return False


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_node_that_dies_is_survived(node, launch, copy_of, cluster, alone):
    """With the first node the batch script dies, too. SLURM requeues once it misses the node."""
    road = copy_of("runs", *SLOWLY)
    (job,) = launch(road)
    job.until(lambda: len(rows(road)) >= 6, "took six steps")
    dead = kill_node(cluster, node)
    assert dead >= 3  # slurmd, a slurmstepd, a rank
    job.until(lambda: job.fact("Restarts") == "1", "was requeued", 180)
    start_node(cluster, node)
    assert job.until_it_ended(240) == "COMPLETED", job.log
    assert "iter_0000004" in job.log  # where it continued from
    same_numbers(rows(road), alone)


@pytest.mark.parametrize("shape", ["torchrun", "task"])
def test_a_rank_that_dies_is_started_again_by_the_script(shape, launch, copy_of, cluster, alone):
    road = copy_of("runs", *SLOWLY)
    (job,) = launch(road, f"launch.shape={shape}")
    job.until(lambda: len(rows(road)) >= 6, "took six steps")
    ranks = processes(cluster, SLURMD_NODENAME="n2", RANK="1") if shape == "torchrun" else (
        processes(cluster, SLURM_JOB_ID=job.number, SLURM_PROCID="1")
    )  # fmt: skip
    assert ranks
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    job.until(lambda: job.fact("Restarts") == "1", "was requeued")
    assert re.search(r"exit code \d+, newest checkpoint \d+: starting again", job.log)
    assert (road.root / "launch" / f"crashes_{job.number}").read_text().split()[-1].isdigit()
    assert job.until_it_ended() == "COMPLETED", job.log
    same_numbers(rows(road), alone)


def kill_node(environment: dict[str, str], node: str) -> int:
    """SIGKILL to all of a node: slurmd, the stepds over its processes, and these."""
    folder = Path(environment["SLURM_CONF"]).parent
    doomed = processes(environment, SLURMD_NODENAME=node)
    for process in list(doomed):
        with contextlib.suppress(OSError, AttributeError):
            status = Path(f"/proc/{process}/status").read_text()
            parent = int(re.search(r"PPid:\s*(\d+)", status).group(1))  # type: ignore[union-attr]
            if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                doomed.add(parent)
    doomed.add(int((folder / f"slurmd_{node}.pid").read_text()))
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(doomed)


def processes(environment: dict[str, str], **variables: str) -> set[int]:
    """Processes of jobs of our cluster that have these environment variables."""
    wanted = {"SLURM_CONF": environment["SLURM_CONF"], **variables}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            lines = (process / "environ").read_bytes().split(b"\0")
            if all(f"{name}={value}".encode() in lines for name, value in wanted.items()):
                found.add(int(process.name))
    return found


def test_a_chain_goes_on_where_the_job_before_it_stopped(launch, copy_of, alone):
    road = copy_of("runs", *SLOWLY)
    first, second, third = launch(road, "launch.chain=3")
    first.until(lambda: len(rows(road)) >= 2, "took two steps")
    assert second.fact("Reason") == "Dependency"
    first.call("scancel", "--signal=USR1", first.number)
    assert first.until_it_ended() == "FAILED"
    assert first.fact("ExitCode") == f"{EXIT_STOPPED}:0"
    assert first.fact("Restarts") == "0"
    assert second.until_it_ended(240) == "COMPLETED", second.log
    same_numbers(rows(road), alone)
    before = (road.folder("50_train") / "DONE").stat().st_mtime_ns
    assert third.until_it_ended() == "COMPLETED", third.log
    assert (road.folder("50_train") / "DONE").stat().st_mtime_ns == before


def tasks_of(element: Job) -> set[int]:
    """Processes that srun started for this element of an array."""
    array, task = element.number.split("_")
    found = processes(
        element.env, SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=task, SLURM_STEP_ID="0"
    )
    lines = {process: Path(f"/proc/{process}/cmdline").read_bytes() for process in found}
    return {process for process, line in lines.items() if b"megatron-math\0index" in line}


def test_an_array_with_a_failed_element_ends_complete_after_the_same_command(
    launch, tmp_path, tokenizer_files
):
    for number in range(6):
        lines = [json.dumps({"text": f"document {i} of {number}"}) + "\n" for i in range(3000)]
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    index = {"tokenizer": str(tokenizer_files["SentencePieceTokenizer"]), "workers": 1,
             "sources": {"web": {"path": f"{tmp_path}/*.jsonl"}}}  # fmt: skip
    (tmp_path / "road.yaml").write_text(yaml.safe_dump({"name": "small", "index": index}))
    whole = Road.load(tmp_path / "road.yaml", runs=tmp_path / "whole")
    run_road(whole, last="index")
    road = Road.load(tmp_path / "road.yaml", runs=tmp_path / "parts")
    words = ["index", "launch.stages.index={shards: 3, cpus_per_task: 1, at_once: 1}"]
    array, merge = launch(road, *words)
    element = Job(
        array.env, f"{array.number}_1", road.root / "launch" / f"index_{array.number}_1.log"
    )
    element.until(lambda: tasks_of(element), "began")
    for process in tasks_of(element):
        os.kill(process, signal.SIGKILL)
    assert element.until_it_ended() == "FAILED", element.log
    assert element.fact("ExitCode") == "137:0"
    merge.until(lambda: merge.fact("JobState") == "CANCELLED", "was given up")
    assert not (road.folder("30_index") / "DONE").exists()
    _, merge = launch(road, *words)
    assert merge.until_it_ended() == "COMPLETED", merge.log
    for path in whole.folder("30_index").glob("web_text_document.*"):
        assert path.read_bytes() == (road.folder("30_index") / path.name).read_bytes(), path.name
