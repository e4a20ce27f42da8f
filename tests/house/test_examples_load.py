"""Every shipped road is valid: its sections exist, its keys are known, its stages are in order."""

from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, resolve
from megatron_math.convert.config import BaseConfig
from megatron_math.curate.config import CurateConfig
from megatron_math.evaluate.config import EvaluateConfig
from megatron_math.index.config import IndexConfig
from megatron_math.launch.config import LaunchConfig
from megatron_math.model.config import ModelOverrides
from megatron_math.pipeline import STAGES, stages_of
from megatron_math.synthesize.config import read_section
from megatron_math.train.config import (
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROADS = sorted(EXAMPLES.glob("*/*.yaml"))
MODELS = {
    "base": BaseConfig, "model": ModelOverrides, "curate": CurateConfig, "index": IndexConfig,
    "blend": BlendConfig, "train": TrainConfig, "parallel": ParallelConfig,
    "precision": PrecisionConfig, "checkpoint": CheckpointConfig, "evaluate": EvaluateConfig,
    "launch": LaunchConfig,
}  # fmt: skip


def check(path: Path, *overrides: str) -> Road:
    road = Road.load(path, overrides)
    for section in road.raw:
        if section == "synthesize":
            read_section(road)
        elif section in MODELS:
            road.section(section, MODELS[section])
        else:
            assert section in ("name", "seed"), f"{path}: nobody reads the section '{section}'"
    if road.has("blend"):
        resolve(road.section("blend", BlendConfig))
    return road


@pytest.mark.parametrize("path", ROADS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_example_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRON_MATH_DATA", "/data")
    road = check(path)
    verbs = [door.verb for door in stages_of(road)]
    assert verbs[-1] == "report" or verbs == ["synthesize"]


def test_the_check_can_fail() -> None:
    with pytest.raises(UserError, match="did you mean 'schedule'"):
        check(ROADS[0], "train.shedule=cosine")


def test_there_are_examples_and_stages_are_numbered_in_order() -> None:
    assert len(ROADS) >= 3
    folders = [door.folder for door in STAGES]
    assert folders == sorted(folders)
