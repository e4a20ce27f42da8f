"""Every shipped road that trains is estimated and dry-run; tables are what `estimate` says."""

import re
from pathlib import Path

import pytest
from recipes import EXAMPLES, RECIPES, Row, load, tables

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, resolve
from megatron_math.dry_run import dry_run
from megatron_math.estimate.hardware import load_gpu
from megatron_math.estimate.run import estimate, read_road
from megatron_math.train.config import TrainConfig
from megatron_math.train.schedule import learning_rate

LAPTOP = sorted(
    path
    for path in EXAMPLES.glob("*/*.yaml")
    if path.parent.name not in RECIPES and "\ntrain:" in path.read_text(encoding="utf-8")
)
ALL = [(recipe, row) for recipe, rows in RECIPES.items() for row in rows]


def test_the_tables_are_current() -> None:
    stale = [path.parent.name for path, found, wanted in tables() if found != wanted]
    assert not stale, f"{stale}: run python tests/examples/recipes.py"


def test_a_recipe_that_does_not_fit_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "40_mathgpt_8b", [Row(1, "h100", "one_gpu")])
    with pytest.raises(UserError, match="it does not fit"):
        list(tables())


def test_every_folder_of_a_cluster_is_in_the_tables() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/train.yaml")} == set(RECIPES)
    layouts = {(path.parents[1].name, path.stem) for path in EXAMPLES.glob("*/layouts/*.yaml")}
    assert layouts == {(recipe, row.layout) for recipe, row in ALL if row.layout}


@pytest.mark.parametrize(
    ("recipe", "row"), ALL, ids=lambda value: str(getattr(value, "gpus", value))
)
def test_every_recipe_is_dry_run(recipe: str, row: Row, tmp_path: Path) -> None:
    found = dry_run(load(recipe, row), row.gpus, [0, row.gpus - 1])
    assert [rank.rank for rank in found.ranks] == [0, row.gpus - 1]
    tensor = found.parallel.tensor
    assert found.ranks[0].num_parameters == pytest.approx(
        found.model.num_parameters() / tensor, rel=1e-3
    )
    assert found.ranks[1].data_rank == row.gpus // tensor - 1


@pytest.mark.parametrize("path", LAPTOP, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_other_road_is_estimated_and_dry_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGATRON_MATH_DATA", "/data")
    text = path.read_text(encoding="utf-8")
    names = re.search(r"base: \{run: \.\./(\w+)\}", text)
    changes = ["base={preset: tiny}", "model={vocab_size: 1536}"] if names else []
    road = Road.load(path, changes, tmp_path)
    found = estimate(read_road(road), load_gpu("h100"))
    assert found.speed.tokens_per_second_per_gpu > 0
    assert dry_run(road).ranks[0].num_layers == found.run.model.num_layers
    assert not list(tmp_path.iterdir())


def mix(recipe: str) -> dict[str, float]:
    """Share of the tokens of every source."""
    road = load(recipe, Row(8))
    shares = {}
    for stage in resolve(road.section("blend", BlendConfig)):
        for part in stage.mix.parts:
            within = list(part.leaves()) if hasattr(part, "leaves") else [part]
            whole = sum(
                float(getattr(p, "amount", getattr(p, "share", 0))) for p in stage.mix.parts
            )
            mine = float(getattr(part, "amount", getattr(part, "share", 0))) / whole
            inner = sum(float(leaf.amount) for leaf in within)
            shares |= {leaf.name: mine * float(leaf.amount) / inner for leaf in within}
    return shares


def test_mathgpts_published_numbers() -> None:
    """25,000 steps of 1,024; 4:6 and 3:7; 1e-4 to 1e-5."""
    found = dry_run(load("40_mathgpt_8b", Row(64)), 64, [0])
    assert found.iterations(found.stages[0]) == 25_000
    assert found.stages[0].sequence_length == 8192
    assert mix("40_mathgpt_8b") == pytest.approx(
        {"general": 0.4, "mathtext": 0.18, "problems": 0.42}
    )
    rates = [learning_rate(found.train, step, 25_000) for step in (249, 24_999)]
    assert rates == pytest.approx([1e-4, 1e-5])


def test_jiuzhangs_published_numbers() -> None:
    """WSD: 3 % up, flat to 85 %, a tenth at the end; problems, then fine-tuning, solutions only."""
    road = load("50_jiuzhang3_8b", Row(8))
    train = road.section("train", TrainConfig)
    assert (train.global_batch_size, train.weight_decay, train.lr) == (512, 0.0, 1e-5)
    rates = [learning_rate(train, step, 10_000) for step in (149, 299, 8499, 9249, 9999)]
    assert rates == pytest.approx([5e-6, 1e-5, 1e-5, 5.5e-6, 1e-6])
    stages = resolve(road.section("blend", BlendConfig))
    assert [stage.name for stage in stages] == ["pretrain", "finetune"]
    for stage in stages:
        assert stage.sequence_length == 2048
        assert {(p.kind, p.amount, tuple(p.loss)) for p in stage.mix.leaves()} == {
            ("epochs", 1, ("solution",))
        }
