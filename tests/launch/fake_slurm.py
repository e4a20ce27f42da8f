"""SLURM's and the containers' programs as small scripts, so that a rendered script runs for real.

srun starts every task, with what SLURM sets for it, and returns the highest exit code; sbatch and
scontrol write down what they were asked; enroot and apptainer start the command of their image.
"""

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SRUN = r"""
import os, subprocess, sys
words, options = sys.argv[1:], []
while words and words[0].startswith("-"):
    options.append(words.pop(0))
facts = dict(o.lstrip("-").partition("=")[::2] for o in options)
nodes = int(os.environ["SLURM_NNODES"])
each = int(facts.get("ntasks-per-node", "1"))
assert int(facts["cpus-per-task"]) >= 1
with open(os.environ["FAKE"] + "/srun", "a") as file:
    file.write(" ".join(options) + "\n")
started = []
for task in range(nodes * each):
    env = {**os.environ, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % each),
           "SLURM_NODEID": str(task // each), "SLURM_STEP_NUM_TASKS": str(nodes * each)}
    started.append(subprocess.Popen(words, env=env))
codes = [process.wait() for process in started]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = r"""
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    first, last = sys.argv[3].removeprefix("gpu[").removesuffix("]").split("-")
    print("\n".join(f"gpu{n}" for n in range(int(first), int(last) + 1)))
elif "show" in sys.argv:
    path = os.environ["FAKE"] + "/jobs/" + sys.argv[-1]
    if not os.path.exists(path):
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(open(path).read())
else:
    with open(os.environ["FAKE"] + "/scontrol", "a") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
"""
SBATCH = r"""
import os, sys
assert sys.argv[1] == "--parsable"
with open(os.environ["FAKE"] + "/sbatch", "a+") as file:
    file.write("\t".join(sys.argv[2:]) + "\n")
    file.seek(0)
    print(100 + len(file.readlines()))
"""
# Behind the options comes the image, which must be there; enroot shows the named variables only.
CONTAINER = r"""
import os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[2:]
kept = {"PATH": os.environ["PATH"]}
while words[0].startswith("-"):
    option = words.pop(0)
    if option in ("--bind", "--mount", "--pwd", "--env"):
        value = words.pop(0)
        if option == "--env" and value in os.environ:
            kept[value] = os.environ[value]
image = words.pop(0)
assert os.path.exists(image), image
if name == "enroot":
    os.chdir("/")
    kept |= {n: os.environ[n] for n in ("FAKE",)}
    os.execvpe(words[0], words, kept)
os.execvp(words[0], words)
"""
# What a task was: its variables, its folder and its arguments. It ends as it is told.
PYTHON = r"""
import json, os, sys
names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR",
         "MASTER_PORT", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "EXTRA", "SECRET")
told = os.environ["FAKE"]
with open(told + "/tasks", "a") as file:
    facts = {n: os.environ[n] for n in names if n in os.environ}
    file.write(json.dumps({**facts, "argv": sys.argv[1:], "cwd": os.getcwd()}) + "\n")
code = open(told + "/code").read().split()
sys.exit(int(code[min(int(os.environ["SLURM_PROCID"]), len(code) - 1)]))
"""
PROGRAMS = {
    "srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH, "apptainer": CONTAINER,
    "enroot": CONTAINER, "python": PYTHON, "megatron-math": PYTHON,
}  # fmt: skip


@dataclass
class FakeSlurm:
    """A folder of programs and of what they were asked."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> "FakeSlurm":
        (folder / "bin").mkdir(parents=True)
        (folder / "jobs").mkdir()
        for name, source in PROGRAMS.items():
            path = folder / "bin" / name
            path.write_text(f"#!{sys.executable} -S\n{source.lstrip()}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return FakeSlurm(folder)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "FAKE": str(self.folder), "VENV": str(self.folder)}

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def state(self, job: int, *lines: str) -> None:
        """What scontrol says of a job from now on."""
        (self.folder / "jobs" / str(job)).write_text("\n".join(lines) + "\n")

    def run(
        self, script: str, *arguments: str, cwd: Path, nodes: int = 2, tasks: int = 2,
        codes: str = "0", **more: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a batch script as SLURM's batch step does; `codes` are the tasks' exit codes."""
        path = self.folder / "job.sbatch"
        path.write_text(script)
        (self.folder / "code").write_text(codes)
        env = {
            "HOME": str(self.folder), **self.environment,
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": f"gpu[3-{2 + nodes}]",
            "SLURM_NNODES": str(nodes), "SLURM_NTASKS": str(tasks), "SLURM_CPUS_ON_NODE": "8",
            "SLURM_CPUS_PER_TASK": "4", "SLURM_PROCID": "0", "SLURM_NODEID": "0", **more,
        }  # fmt: skip
        return subprocess.run(
            ["bash", str(path), *arguments],
            env=env, cwd=cwd, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
