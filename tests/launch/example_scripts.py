"""examples/slurm/*.sbatch, as the templates of `launch` render them without a road.

python tests/launch/example_scripts.py      # writes them
"""

from pathlib import Path

from megatron_math.launch.config import LaunchConfig
from megatron_math.launch.script import Script

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "slurm"
_OURS = (
    "Options given to sbatch win over the #SBATCH lines. `megatron-math launch` fills in the rest."
)


def _train(shape: str, what: str) -> Script:
    return Script(
        verb="train",
        launch=LaunchConfig.model_validate({"nodes": 2, "shape": shape}),
        job_name="train",
        about=[
            f"Train on several nodes, {what}. The road must have come as far as its blend.",
            "",
            f"  sbatch --nodes=4 examples/slurm/{_NAMES[shape]} run.yaml parallel.tensor=2",
            "",
            _OURS,
        ],
        log="%x_%j.log",
        venv=".venv",
    )


_NAMES = {"torchrun": "torchrun_per_node.sbatch", "task": "task_per_gpu.sbatch"}


def _array() -> Script:
    return Script(
        verb="index",
        launch=LaunchConfig.model_validate(
            {"stages": {"index": {"shards": 1, "time": "12:00:00"}}}
        ),
        job_name="index",
        about=[
            "A stage that can be split, on many nodes: an array of shards, then a job that merges.",
            "",
            "  command=(megatron-math index road.yaml)  # or python tools/preprocess_data.py ...",
            "  script=examples/slurm/array.sbatch",
            '  shards=$(sbatch --parsable --array=0-31 $script "${command[@]}")',
            "  sbatch --dependency=afterok:$shards --kill-on-invalid-dep=yes \\",
            '      $script "${command[@]}" --merge',
            "",
            "A task that was killed, requeued or given the same command again goes on where it",
            "was, and one that is done is not done again. More than 8 cores a task are used badly;",
            "for more speed take more tasks.",
            _OURS,
        ],
        log="%x_%A_%a.log",
        venv=".venv",
    )


SCRIPTS = {
    "torchrun_per_node.sbatch": _train("torchrun", "one torchrun on each"),
    "task_per_gpu.sbatch": _train("task", "one SLURM task for each GPU"),
    "array.sbatch": _array(),
}

if __name__ == "__main__":
    for name, script in SCRIPTS.items():
        (FOLDER / name).write_text(script.text())
