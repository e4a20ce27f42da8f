"""Stages with settings of their own: what each begins with, one go against a launch for each."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_resume import TIMING, differing, tensors
from train_roads import metrics

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run as blend
from megatron_math.checkpoint.folders import complete_checkpoints, open_checkpoint
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.train.config import TrainConfig
from megatron_math.train.stages import VALIDATION, chosen, stages_of, stop_iteration

PLAN = SimpleNamespace(
    history=None,
    stages=[
        SimpleNamespace(name=name, num_samples=samples)
        for name, samples in (("cpt", 80), ("anneal", 40), ("sft", 21))
    ],
)
STAGES = """[
  {name: cpt, tokens: 4096, mix: {general: {share: 1}}},
  {name: anneal, tokens: 2048, mix: {general: {share: 1}, problems: {share: 1, pack: whole}}},
  {name: sft, tokens: 1024, sequence_length: 32, data: fresh, mix: {problems: {share: 1}}}]"""
OWN = """{
  anneal: {weights: best, best_of: 2, lr: 2.0e-3, schedule: cosine, min_lr: 1.0e-4},
  sft: {optimizer: fresh, global_batch_size: 4, micro_batch_size: 4, lr: 1.0e-4}}"""


def settings(**own) -> TrainConfig:
    base = {"global_batch_size": 8, "lr": 1e-3, "min_lr": 1e-4, "warmup_share": 0.1}
    return parse_section(TrainConfig, base | own, "train")


def test_stages_that_are_not_named_share_one_schedule() -> None:
    stages = stages_of(settings(), PLAN)
    assert [(stage.first, stage.end) for stage in stages] == [(0, 10), (10, 15), (15, 18)]
    assert {(stage.schedule_first, stage.schedule_end) for stage in stages} == {(0, 18)}
    rates = [stage.learning_rate(i) for stage in stages for i in range(stage.first, stage.end)]
    assert max(rates) == rates[1] == 1e-3
    assert rates[-1] == min(rates[2:]) == 1e-4


def test_a_named_stage_has_its_own_and_the_others_share_what_is_around_it() -> None:
    own = {"anneal": {"schedule": "constant", "lr": 5e-4, "global_batch_size": 4}}
    cpt, anneal, sft = stages_of(settings(stages=own), PLAN)
    assert [(s.first, s.end) for s in (cpt, anneal, sft)] == [(0, 10), (10, 20), (20, 23)]
    assert [(s.schedule_first, s.schedule_end) for s in (cpt, anneal, sft)] == [
        (0, 10), (10, 20), (20, 23),
    ]  # fmt: skip
    assert cpt.learning_rate(9) == sft.learning_rate(22) == 1e-4
    assert anneal.learning_rate(19) == 5e-4
    assert anneal.train.min_lr == 0  # the run's belongs to the run's schedule
    assert stop_iteration(settings(stop_after="anneal", stages=own), [cpt, anneal, sft]) == 20


def test_a_lost_beginning_is_said(tmp_path: Path) -> None:
    stages = stages_of(settings(stages={"anneal": {"weights": "best"}}), PLAN)
    with pytest.raises(
        UserError, match="anneal begins with the best checkpoint of cpt, and .* has none"
    ):
        chosen(tmp_path, stages, 1)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"ctp": {}}, "train.stages names 'ctp', and the stages of blend are cpt, anneal, sft"),
        ({"cpt": {"weights": "best"}}, "weights: best has no effect in the first stage"),
        ({"cpt": {"optimizer": "fresh"}}, "optimizer: fresh has no effect in the first stage"),
        ({"sft": {"best_of": 2}}, "best_of has no effect with weights: last"),
        ({"sft": {"weights": "base"}}, "base has no moments to carry"),
        ({"sft": {"schedule": "constant", "min_lr": 1e-5}}, "stages.sft: .*min_lr has no effect"),
        ({"sft": {"lr": 1e-5}}, "stages.sft: .*min_lr 0.0001 is above lr 1e-05"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(own, says) -> None:
    with pytest.raises(UserError, match=says):
        stages_of(settings(stages=own), PLAN)


def test_a_stop_behind_an_unknown_stage_is_refused() -> None:
    train = settings(stop_after="annael")
    with pytest.raises(UserError, match="no stage is called 'annael'.* cpt, anneal, sft"):
        stop_iteration(train, stages_of(train, PLAN))


def staged(copy_of, name: str, *overrides: str, stages: str = STAGES, own: str = OWN) -> Road:
    road: Road = copy_of(
        name,
        "blend.mix=null",
        "blend.tokens=null",
        f"blend.stages={stages}",
        f"train.stages={own}",
        "checkpoint.interval=2",
        *overrides,
    )
    blend(road)
    return road


def rows(road: Road) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in TIMING} for row in metrics(road)
    ]


def test_one_go_equals_a_launch_for_each_stage(copy_of, train) -> None:
    whole = staged(copy_of, "whole", "checkpoint.keep=1")
    assert train(whole)
    assert [row["stage"] for row in rows(whole)] == ["cpt"] * 8 + ["anneal"] * 4 + ["sft"] * 8
    apart = staged(copy_of, "apart", "checkpoint.keep=1")
    for stage, is_end in (("cpt", False), ("anneal", False), ("sft", True)):
        leg = Road.load(
            apart.yaml_path, [*apart.overrides, f"train.stop_after={stage}"], apart.runs
        )
        assert train(leg) == is_end
    assert rows(apart) == rows(whole)
    assert metrics(apart, "validation.jsonl") == metrics(whole, "validation.jsonl")
    assert differing(tensors(apart), tensors(whole)) == []
    # The last stage's moments are its own: Adam has made its eight steps, not twenty.
    common = open_checkpoint(whole.folder("50_train") / "checkpoints").folder / "common.pt"
    groups = torch.load(common, weights_only=False)["optimizer"]["optimizer"]["param_groups"]
    assert {group["step"] for group in groups} == {8}
    # Control: with moments carried, it is another run from the last stage on.
    carried = staged(copy_of, "carried", own=OWN.replace("optimizer: fresh", "optimizer: carried"))
    assert train(carried)
    assert rows(carried)[:13] == rows(whole)[:13]
    assert rows(carried)[13]["lm loss"] != rows(whole)[13]["lm loss"]


def test_a_stage_begins_with_the_best_checkpoint_of_the_one_before(copy_of, train) -> None:
    """cpt climbs to a rate that harms it, so that its best checkpoint is not its last one."""
    harm = ("train.lr=1.0", "train.warmup_share=0.99", "train.clip_grad=0", "checkpoint.keep=1")
    own = "{anneal: {weights: best, lr: 1.0e-9, warmup_share: 0}}"
    stages = STAGES.replace("4096", "8192")
    road = staged(copy_of, "best", *harm, "train.stop_after=18", stages=stages, own=own)
    assert not train(road)
    folder = road.folder("50_train") / "checkpoints"
    losses = {
        checkpoint.iteration: read_json(checkpoint.folder / VALIDATION)["loss"]
        for checkpoint in complete_checkpoints(folder)
    }
    # The newest, and, from before the border at 16, only what the stage began with.
    assert len(losses) == 2
    chosen = min(losses)
    by_iteration = {row["iteration"]: row for row in metrics(road, "validation.jsonl")}
    means = {
        number: sum(row["loss"][s] * row["tokens"][s] for s in row["loss"])
        / sum(row["tokens"].values())
        for number, row in by_iteration.items()
    }
    assert chosen == min((n for n in means if 0 < n <= 16), key=means.__getitem__) < 16
    assert means[16] > 1.05 * means[chosen]
    # A rate of next to nothing: two steps later the model is still the one that it began with.
    assert means[18] == pytest.approx(means[chosen], rel=1e-5)


def test_a_stage_may_begin_with_the_base(copy_of, train) -> None:
    own = "{anneal: {weights: base, optimizer: fresh, lr: 1.0e-9, warmup_share: 0}}"
    road = staged(copy_of, "base", "train.stop_after=10", own=own)
    assert not train(road)
    losses = {row["iteration"]: row["loss"] for row in metrics(road, "validation.jsonl")}
    assert losses[8]["general"] < 0.99 * losses[0]["general"]
    # A rate of next to nothing: two steps later the model is still the base.
    assert losses[10] == pytest.approx(losses[0], rel=1e-5)


def test_data_that_begin_again_come_in_the_same_order(copy_of) -> None:
    stages = """[
      {name: one, tokens: 2048, mix: {general: {share: 1}}},
      {name: two, tokens: 2048, DATA mix: {general: {share: 1}}}]"""
    for data, again in (("data: fresh,", True), ("", False)):
        road = staged(copy_of, data or "carried", stages=stages.replace("DATA", data), own="{}")
        plan = load_plan(road.folder("40_blend"))
        one, two = (PlanReader(plan, name).batch([0, 1, 2]).tokens_BS for name in ("one", "two"))
        assert (one == two).all() == again
        facts = json.loads((road.folder("40_blend") / "stats.json").read_text())["stages"]
        repeated = [stage["sources"][0]["most_repeated"] for stage in facts]
        assert repeated == ([1, 2] if again else [1, 1])


def test_beginning_again_what_was_not_begun_is_refused(copy_of) -> None:
    stages = "[{name: one, tokens: 2048, data: fresh, mix: {general: {share: 1}}}]"
    with pytest.raises(UserError, match="data: fresh has no effect, since no stage before it uses"):
        staged(copy_of, "first", stages=stages, own="{}")
