"""Fixtures of the convert room's tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_hf_folder


@pytest.fixture
def hf_folder(tmp_path: Path) -> Callable[..., Path]:
    """hf_folder(family, **changes) -> a new folder below tmp_path."""

    def make(family: str, name: str = "hf", **changes: Any) -> Path:
        return make_hf_folder(tmp_path / name, family, **changes)

    return make
