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
from megatron_math.roads import holds_roads, write_roads
from megatron_math.study.plan import holds_study, plan_study, read_study
from megatron_math.synthesize.config import read_section
from megatron_math.train.config import (
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*/*.yaml"))
LOOPS = [path for path in FILES if holds_roads(path)]
STUDIES = [path for path in FILES if holds_study(path)]
ROADS = [path for path in FILES if path not in LOOPS and path not in STUDIES]
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


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_road_of_a_loop_is_valid(path: Path, tmp_path: Path) -> None:
    roads = write_roads(path, [], tmp_path)
    assert len(roads) > 1
    for road in roads:
        check(road.yaml_path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_road_of_a_study_is_valid(path: Path, tmp_path: Path) -> None:
    plan = plan_study(read_study(path), tmp_path)
    assert len(plan.arms) > 4
    for road in (*plan.shared, *(arm.road for arm in plan.arms if not arm.is_made_elsewhere)):
        check(road.yaml_path)


def test_the_check_can_fail() -> None:
    with pytest.raises(UserError, match="did you mean 'schedule'"):
        check(ROADS[0], "train.shedule=cosine")


def test_there_are_examples_and_stages_are_numbered_in_order() -> None:
    assert len(ROADS) >= 3
    folders = [door.folder for door in STAGES]
    assert folders == sorted(folders)
