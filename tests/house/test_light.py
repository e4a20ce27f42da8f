"""Rooms that only move text and files must not wait for torch, nor must a road that is done."""

import subprocess
import sys

import pytest

LIGHT = (
    "megatron_math.cli",
    "megatron_math.pipeline",
    "megatron_math.synthesize.run",
    "megatron_math.curate.run",
    "megatron_math.index.run",
    "megatron_math.blend.run",
    "megatron_math.report.run",
    "megatron_math.train.run",
    "megatron_math.convert.run",
    "megatron_math.evaluate.run",
    "megatron_math.dataset.reader",
    "megatron_math.estimate.verb",
    "megatron_math.dry_run",
    "megatron_math.doctor.run",
    "megatron_math.megatron_flags.road",
    "megatron_math.gpu_check.run",
    "megatron_math.status.table",
    "megatron_math.train.watch",
    "megatron_math.launch.verb",
    "megatron_math.study.verb",
    "megatron_math.study.one_road",
)


def loads_torch(statement: str) -> bool:
    code = f"import sys; {statement}; sys.exit(3 if 'torch' in sys.modules else 0)"
    status = subprocess.run([sys.executable, "-c", code], check=False).returncode
    assert status in (0, 3), f"{statement} fails"
    return status == 3


@pytest.mark.parametrize("module", LIGHT)
def test_importing_does_not_load_torch(module: str) -> None:
    assert not loads_torch(f"import {module}")


def test_the_check_can_fail() -> None:
    assert loads_torch("import megatron_math.train.step")
