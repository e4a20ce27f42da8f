"""SLURM: jobs, arrays and chains for the stages of a road, and a linter for sbatch files.

Reads the road's `launch:` section, the checkpoints' interval and the speed of an earlier run.
Writes `<run>/launch/`: the script of every verb, the logs of its jobs, `jobs.jsonl`.
"""
