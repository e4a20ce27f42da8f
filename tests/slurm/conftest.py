"""The cluster and the prepared road that every test here uses."""

from collections.abc import Iterator

import pytest
from train_roads import copy_of, prepared  # noqa: F401
from two_nodes import missing, two_nodes


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """Environment in which sbatch, scontrol and the others speak to a two-node SLURM here."""
    if missing():
        pytest.skip(f"not installed: {', '.join(missing())} (Debian: slurm-wlm and munge)")
    with two_nodes() as environment:
        yield environment
