"""The scripts of examples/slurm on a real SLURM of two nodes: train, stop, requeue, finish."""

import contextlib
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from slurm_jobs import Job, rows, same_numbers

from megatron_math.base.road import Road

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SCRIPTS = {
    "torchrun": ("torchrun_per_node.sbatch", []),
    "task": ("task_per_gpu.sbatch", ["--ntasks-per-node=1"]),
}
SLOWLY = ["train.validation_interval=1"]  # so that a signal arrives before the last step


@pytest.fixture
def submit(cluster, repository: Path, tmp_path: Path):
    """submit(shape, road, *overrides, options=[...]) -> Job, in a folder of its own."""
    jobs: list[Job] = []

    def submit_job(shape: str, road: Road, *overrides: str, options: tuple[str, ...] = ()) -> Job:
        script, shape_options = SCRIPTS[shape]
        env = {
            **cluster,
            "VENV": sys.prefix,
            "GPUS_PER_NODE": "1",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # no resolver knows n1
        }
        argv = ["--gres=none", *shape_options, *options]
        argv += [str(repository / "examples" / "slurm" / script), str(road.yaml_path)]
        argv += ["--runs", str(road.runs), *overrides]
        jobs.append(Job.submitted(env, tmp_path, argv))
        return jobs[-1]

    yield submit_job
    for job in jobs:
        job.call("scancel", "--quiet", job.number)


@pytest.mark.parametrize("shape", SCRIPTS)
def test_two_nodes_train_to_the_numbers_of_one_process(shape, submit, copy_of, alone):
    road = copy_of("runs")
    job = submit(shape, road)
    assert job.until_it_ended() == "COMPLETED", job.log
    assert "2 process(es)" in job.log
    assert job.fact("NodeList") == "n[1-2]"
    same_numbers(rows(road), alone)


@pytest.mark.parametrize("shape", SCRIPTS)
def test_a_signal_saves_stops_with_75_requeues_and_the_job_finishes(shape, submit, copy_of, alone):
    road = copy_of("runs")
    job = submit(shape, road, *SLOWLY)
    job.until(lambda: len(rows(road)) >= 2, "took two steps")
    job.call("scancel", "--signal=USR1", job.number)
    job.until(lambda: job.fact("Restarts") == "1", "was requeued")
    stopped_after = len(rows(road))
    assert 2 <= stopped_after < len(alone)
    assert "exit code 75" in job.log
    assert f"stopped after iteration {stopped_after}, all is saved" in job.log
    assert job.until_it_ended() == "COMPLETED", job.log
    assert f"iter_{stopped_after:07d}" in job.log  # where it continued from
    same_numbers(rows(road), alone)


def test_a_signal_while_everything_loads_requeues_too(submit, copy_of, alone):
    road = copy_of("runs")
    job = submit("task", road)
    job.until(lambda: ranks_that_catch_usr1(road) == 2, "started two ranks")
    job.call("scancel", "--signal=USR1", job.number)
    job.until(lambda: job.fact("Restarts") == "1", "was requeued")
    assert rows(road) == []
    assert job.log.count("before the first step") >= 1
    assert job.until_it_ended() == "COMPLETED", job.log
    same_numbers(rows(road), alone)


def ranks_that_catch_usr1(road: Road) -> int:
    """Processes that train this road and are past the interpreter's own start."""
    command = f"-m\0megatron_math.train\0{road.yaml_path}\0--runs\0{road.runs}".encode()
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            caught = re.search(r"SigCgt:\s*(\w+)", (process / "status").read_text())
            if command in line and b"srun" not in line and caught:
                count += int(caught.group(1), 16) >> (signal.SIGUSR1 - 1) & 1
    return count


def test_a_cancelled_job_stays_cancelled(submit, copy_of, alone):
    road = copy_of("runs")
    job = submit("torchrun", road, *SLOWLY)
    job.until(lambda: len(rows(road)) >= 2, "took two steps")
    job.call("scancel", job.number)
    assert job.until_it_ended() == "CANCELLED"
    time.sleep(3)
    assert job.fact("JobState") == "CANCELLED"
    assert job.fact("Restarts") == "0"


def test_many_torchruns_on_a_node_are_refused(submit, copy_of):
    """The mistake in many published scripts: a task for each GPU, and a torchrun in each task."""
    job = submit("torchrun", copy_of("runs"), options=("--ntasks-per-node=2",))
    assert job.until_it_ended() == "FAILED"
    assert job.fact("ExitCode") == "2:0"
    assert "4 tasks on 2 nodes" in job.log


@pytest.mark.parametrize("shape", SCRIPTS)
def test_bad_input_is_not_requeued(shape, submit, copy_of):
    job = submit(shape, copy_of("runs"), "parallel.tensor=3")
    assert job.until_it_ended() == "FAILED"
    assert job.fact("ExitCode") == "2:0"
    assert job.fact("Restarts") == "0"
