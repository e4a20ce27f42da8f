"""A blend that continues another run's checkpoint: iterations, optimizer state and data go on."""

import json
import shutil
from pathlib import Path

import pytest
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run as blend
from megatron_math.checkpoint.folders import open_checkpoint, seal
from megatron_math.dataset.plan import load_plan
from megatron_math.inspect.batch import samples_of
from megatron_math.train.config import TrainConfig
from megatron_math.train.run import run

STEPS, STOPPED_AFTER = 16, 6
SETTINGS = (
    "blend.mix={general: {share: 1}}",
    "train.warmup_share=0",
    "train.validation_samples=0",
)


def with_steps(copy_of, name: str, steps: int, *overrides: str) -> Road:
    """A blended road of `steps` steps of 8 samples of 64 tokens."""
    road: Road = copy_of(name, *SETTINGS, f"blend.tokens={steps * 8 * 64}", *overrides)
    blend(road)
    return road


def losses(road: Road) -> dict[int, float]:
    return {row["iteration"]: row["lm loss"] for row in metrics(road)}


@pytest.fixture(scope="module")
def stopped(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of run folders: one run stopped after STOPPED_AFTER of STEPS steps."""
    runs = tmp_path_factory.mktemp("stopped") / "runs"

    def copy(_: str, *overrides: str) -> Road:
        shutil.copytree(prepared / "runs", runs, symlinks=True)
        return Road.load(prepared / "road.yaml", overrides, runs)

    with pytest.raises(StoppedOnRequest):
        run(with_steps(copy, "stopped", STEPS, f"train.stop_after={STOPPED_AFTER}"))
    return runs


def checkpoint_in(runs: Path) -> Path:
    return open_checkpoint(runs / "road/50_train/checkpoints").folder


def test_the_same_mix_goes_on_as_if_nothing_had_happened(copy_of, stopped) -> None:
    unbroken = with_steps(copy_of, "unbroken", STEPS)
    run(unbroken)
    continued = with_steps(
        copy_of,
        "continued",
        STEPS - STOPPED_AFTER,
        f"blend.continue_from={checkpoint_in(stopped)}",
    )
    run(continued)
    whole, rest = losses(unbroken), losses(continued)
    assert list(rest) == list(range(STOPPED_AFTER + 1, STEPS + 1))
    # The data go on at the very token, weights and moments where they stood: the same losses.
    assert rest == {iteration: whole[iteration] for iteration in rest}
    for key in ("consumed_samples", "consumed_tokens"):
        assert metrics(continued)[-1][key] == metrics(unbroken)[-1][key]

    state = open_checkpoint(continued.folder("50_train") / "checkpoints").read("data_state.json")
    assert state["iteration"] == STEPS
    assert [one["consumed_samples"] for one in state["stages"]] == [
        STOPPED_AFTER * 8,
        (STEPS - STOPPED_AFTER) * 8,
    ]
    plan = load_plan(continued.folder("40_blend"))
    train = continued.section("train", TrainConfig)
    _, samples = samples_of(plan, STOPPED_AFTER + 2, train)
    assert samples == range(8, 16)
    with pytest.raises(UserError, match=f"has the iterations {STOPPED_AFTER + 1} to {STEPS}$"):
        samples_of(plan, STOPPED_AFTER, train)


def test_another_mix_in_a_continued_run_that_is_stopped_and_goes_on(copy_of, stopped) -> None:
    overrides = (
        f"blend.continue_from={checkpoint_in(stopped)}",
        "blend.mix={general: {share: 1}, problems: {share: 1, pack: whole}}",
    )
    unbroken = with_steps(copy_of, "unbroken", 6, *overrides)
    run(unbroken)
    assert min(losses(unbroken)) == STOPPED_AFTER + 1

    broken = with_steps(copy_of, "broken", 6, *overrides, f"train.stop_after={STOPPED_AFTER + 2}")
    with pytest.raises(StoppedOnRequest):
        run(broken)
    run(Road.load(broken.yaml_path, broken.overrides[:-1], broken.runs))
    assert losses(broken) == losses(unbroken)

    again = open_checkpoint(broken.folder("50_train") / "checkpoints").folder
    third = with_steps(copy_of, "third", 2, f"blend.continue_from={again}")
    run(third)  # a continued run can itself be continued, by a plan without one of its sources
    assert min(losses(third)) == max(losses(broken)) + 1
    state = open_checkpoint(third.folder("50_train") / "checkpoints").read("data_state.json")
    assert [set(one["sources"]) for one in state["stages"]] == [
        {"general"},
        {"general", "problems"},
        {"general"},
    ]
    assert "problems" in state["stages"][-1]["idle"]


def test_a_checkpoint_that_is_not_the_plans_is_refused(copy_of, stopped, tmp_path, capfd) -> None:
    folder = checkpoint_in(shutil.copytree(stopped, tmp_path / "changed", symlinks=True))
    road = with_steps(copy_of, "continued", 4, f"blend.continue_from={folder}")
    state, model = read_json(folder / "data_state.json"), read_json(folder / "model.json")

    def replaced(name: str, content: dict) -> None:
        write_json(folder / name, content)
        seal(folder, state["iteration"])  # a whole checkpoint, of something else

    replaced("data_state.json", state | {"consumed_samples": state["consumed_samples"] + 8})
    with pytest.raises(SystemExit):
        run(road)
    assert "does not fit the blend plan (differs in consumed_samples)" in capfd.readouterr().err
    replaced("data_state.json", state)
    replaced("model.json", model | {"rope_base": 5e5})
    with pytest.raises(SystemExit):
        run(road)
    assert "another model than 00_base" in capfd.readouterr().err
    assert not (road.folder("50_train") / "checkpoints").exists()
    assert json.loads((road.folder("50_train") / "manifest.json").read_text())["state"] == "running"


def test_the_old_runs_folder_is_not_written_over(prepared, stopped, tmp_path) -> None:
    runs = shutil.copytree(stopped, tmp_path / "runs", symlinks=True)
    overrides = [*SETTINGS, "blend.tokens=1024", f"blend.continue_from={checkpoint_in(runs)}"]
    same_name = Road.load(prepared / "road.yaml", overrides, runs)
    blend(same_name)
    with pytest.raises(UserError, match="give this road another name"):
        run(same_name)
