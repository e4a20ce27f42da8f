"""The cluster and the prepared road that every test here uses."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_jobs import rows
from train_roads import copy_of, prepared  # noqa: F401
from two_nodes import missing, two_nodes

from megatron_math.base.road import Road


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """Environment in which sbatch, scontrol and the others speak to a two-node SLURM here."""
    if missing():
        pytest.skip(f"not installed: {', '.join(missing())} (Debian: slurm-wlm and munge)")
    with two_nodes() as environment:
        yield environment


@pytest.fixture(scope="session")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:  # noqa: F811
    """Metrics of the same road trained by one process, without SLURM."""
    runs = tmp_path_factory.mktemp("alone") / "runs"
    subprocess.run(["cp", "-a", str(prepared / "runs"), str(runs)], check=True)
    command = [sys.executable, "-m", "megatron_math.train", str(prepared / "road.yaml")]
    subprocess.run([*command, "--runs", str(runs)], check=True, timeout=200)
    return rows(Road.load(prepared / "road.yaml", runs=runs))
