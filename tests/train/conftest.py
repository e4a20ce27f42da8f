from collections.abc import Iterator

import pytest
from loaded import loaded
from train_roads import copy_of, prepared, train  # noqa: F401

from megatron_math.train import run as room


@pytest.fixture(scope="module", autouse=True)
def _start_forks() -> Iterator[None]:
    """Ranks that a test starts in this process's name are forks: see loaded.py."""

    def start(*arguments: object, **keywords: object) -> int:
        return loaded().start_processes(*arguments, **keywords)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "start_processes", start)
        yield
