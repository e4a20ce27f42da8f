"""The scripts of examples/slurm on a real SLURM of two nodes: train, stop, requeue, finish."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_math.base.road import Road

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SCRIPTS = {
    "torchrun": ("torchrun_per_node.sbatch", []),
    "task": ("task_per_gpu.sbatch", ["--ntasks-per-node=1"]),
}
SLOWLY = ["train.validation_interval=1"]  # so that a signal arrives before the last step


class Job:
    """One submitted job and what SLURM says of it."""

    def __init__(self, env: dict[str, str], folder: Path, argv: list[str]):
        self.env, self.folder = env, folder
        self.number = self.call("sbatch", "--parsable", *argv).strip()

    def call(self, *argv: str) -> str:
        done = subprocess.run(argv, env=self.env, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def fact(self, name: str) -> str:
        shown = self.call("scontrol", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", shown)
        assert found, shown
        return found.group(1)

    @property
    def log(self) -> str:
        path = self.folder / f"train_{self.number}.log"
        return path.read_text() if path.exists() else ""

    def until(self, condition, what: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"job {self.number} never {what}; its log:\n{self.log}"
            time.sleep(0.05)

    def until_it_ended(self) -> str:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.until(lambda: self.fact("JobState") in over, "ended")
        return self.fact("JobState")


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
        jobs.append(Job(env, tmp_path, [*argv, "--runs", str(road.runs), *overrides]))
        return jobs[-1]

    yield submit_job
    for job in jobs:
        job.call("scancel", "--quiet", job.number)


@pytest.fixture(scope="session")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Metrics of the same road trained by one process, without SLURM."""
    runs = tmp_path_factory.mktemp("alone") / "runs"
    subprocess.run(["cp", "-a", str(prepared / "runs"), str(runs)], check=True)
    command = [sys.executable, "-m", "megatron_math.train", str(prepared / "road.yaml")]
    subprocess.run([*command, "--runs", str(runs)], check=True, timeout=200)
    return rows(Road.load(prepared / "road.yaml", runs=runs))


def rows(road: Road) -> list[dict]:
    path = road.folder("50_train") / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same_numbers(found: list[dict], expected: list[dict]) -> None:
    assert [row["iteration"] for row in found] == [row["iteration"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert losses(one) == pytest.approx(losses(other), rel=1e-5)


def losses(row: dict) -> dict[str, float]:
    return {n: v for n, v in row.items() if n in ("lm loss", "grad-norm") or n.startswith("loss/")}


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
