"""A linter for sbatch files, ours and others': mistakes that cost days, each with its cure."""
